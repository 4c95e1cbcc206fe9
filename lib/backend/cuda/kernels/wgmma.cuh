// Hopper's products of a warpgroup (wgmma), of all widths n.
#pragma once
#include "hopper.cuh"

// Operands: 4 more of d for every 8 columns.
#define WGMMA_D8 "%0, %1, %2, %3"
#define WGMMA_D16 WGMMA_D8 ", %4, %5, %6, %7"
#define WGMMA_D24 WGMMA_D16 ", %8, %9, %10, %11"
#define WGMMA_D32 WGMMA_D24 ", %12, %13, %14, %15"
#define WGMMA_D40 WGMMA_D32 ", %16, %17, %18, %19"
#define WGMMA_D48 WGMMA_D40 ", %20, %21, %22, %23"
#define WGMMA_D56 WGMMA_D48 ", %24, %25, %26, %27"
#define WGMMA_D64 WGMMA_D56 ", %28, %29, %30, %31"
#define WGMMA_D72 WGMMA_D64 ", %32, %33, %34, %35"
#define WGMMA_D80 WGMMA_D72 ", %36, %37, %38, %39"
#define WGMMA_D88 WGMMA_D80 ", %40, %41, %42, %43"
#define WGMMA_D96 WGMMA_D88 ", %44, %45, %46, %47"
#define WGMMA_D104 WGMMA_D96 ", %48, %49, %50, %51"
#define WGMMA_D112 WGMMA_D104 ", %52, %53, %54, %55"
#define WGMMA_D120 WGMMA_D112 ", %56, %57, %58, %59"
#define WGMMA_D128 WGMMA_D120 ", %60, %61, %62, %63"
#define WGMMA_D136 WGMMA_D128 ", %64, %65, %66, %67"
#define WGMMA_D144 WGMMA_D136 ", %68, %69, %70, %71"
#define WGMMA_D152 WGMMA_D144 ", %72, %73, %74, %75"
#define WGMMA_D160 WGMMA_D152 ", %76, %77, %78, %79"
#define WGMMA_D168 WGMMA_D160 ", %80, %81, %82, %83"
#define WGMMA_D176 WGMMA_D168 ", %84, %85, %86, %87"
#define WGMMA_D184 WGMMA_D176 ", %88, %89, %90, %91"
#define WGMMA_D192 WGMMA_D184 ", %92, %93, %94, %95"
#define WGMMA_D200 WGMMA_D192 ", %96, %97, %98, %99"
#define WGMMA_D208 WGMMA_D200 ", %100, %101, %102, %103"
#define WGMMA_D216 WGMMA_D208 ", %104, %105, %106, %107"
#define WGMMA_D224 WGMMA_D216 ", %108, %109, %110, %111"
#define WGMMA_D232 WGMMA_D224 ", %112, %113, %114, %115"
#define WGMMA_D240 WGMMA_D232 ", %116, %117, %118, %119"
#define WGMMA_D248 WGMMA_D240 ", %120, %121, %122, %123"
#define WGMMA_D256 WGMMA_D248 ", %124, %125, %126, %127"

#define WGMMA_FOUR(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define WGMMA_OUT8 WGMMA_FOUR(0)
#define WGMMA_OUT16 WGMMA_OUT8, WGMMA_FOUR(4)
#define WGMMA_OUT24 WGMMA_OUT16, WGMMA_FOUR(8)
#define WGMMA_OUT32 WGMMA_OUT24, WGMMA_FOUR(12)
#define WGMMA_OUT40 WGMMA_OUT32, WGMMA_FOUR(16)
#define WGMMA_OUT48 WGMMA_OUT40, WGMMA_FOUR(20)
#define WGMMA_OUT56 WGMMA_OUT48, WGMMA_FOUR(24)
#define WGMMA_OUT64 WGMMA_OUT56, WGMMA_FOUR(28)
#define WGMMA_OUT72 WGMMA_OUT64, WGMMA_FOUR(32)
#define WGMMA_OUT80 WGMMA_OUT72, WGMMA_FOUR(36)
#define WGMMA_OUT88 WGMMA_OUT80, WGMMA_FOUR(40)
#define WGMMA_OUT96 WGMMA_OUT88, WGMMA_FOUR(44)
#define WGMMA_OUT104 WGMMA_OUT96, WGMMA_FOUR(48)
#define WGMMA_OUT112 WGMMA_OUT104, WGMMA_FOUR(52)
#define WGMMA_OUT120 WGMMA_OUT112, WGMMA_FOUR(56)
#define WGMMA_OUT128 WGMMA_OUT120, WGMMA_FOUR(60)
#define WGMMA_OUT136 WGMMA_OUT128, WGMMA_FOUR(64)
#define WGMMA_OUT144 WGMMA_OUT136, WGMMA_FOUR(68)
#define WGMMA_OUT152 WGMMA_OUT144, WGMMA_FOUR(72)
#define WGMMA_OUT160 WGMMA_OUT152, WGMMA_FOUR(76)
#define WGMMA_OUT168 WGMMA_OUT160, WGMMA_FOUR(80)
#define WGMMA_OUT176 WGMMA_OUT168, WGMMA_FOUR(84)
#define WGMMA_OUT184 WGMMA_OUT176, WGMMA_FOUR(88)
#define WGMMA_OUT192 WGMMA_OUT184, WGMMA_FOUR(92)
#define WGMMA_OUT200 WGMMA_OUT192, WGMMA_FOUR(96)
#define WGMMA_OUT208 WGMMA_OUT200, WGMMA_FOUR(100)
#define WGMMA_OUT216 WGMMA_OUT208, WGMMA_FOUR(104)
#define WGMMA_OUT224 WGMMA_OUT216, WGMMA_FOUR(108)
#define WGMMA_OUT232 WGMMA_OUT224, WGMMA_FOUR(112)
#define WGMMA_OUT240 WGMMA_OUT232, WGMMA_FOUR(116)
#define WGMMA_OUT248 WGMMA_OUT240, WGMMA_FOUR(120)
#define WGMMA_OUT256 WGMMA_OUT248, WGMMA_FOUR(124)

// The other operands are numbers of what follows d: n / 2 on.
#define WGMMA_SHARED(N, A, B, P, TA, TB)                                                                                          \
  template <int transA, int transB> __device__ __forceinline__ void wgmma_shared(float (&d)[N / 2], u64 a, u64 b, int accumulate) {   \
    asm volatile("{.reg .pred p; setp.ne.b32 p, %" #P ", 0; wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" WGMMA_D##N    \
                 "}, %" #A ", %" #B ", p, 1, 1, %" #TA ", %" #TB ";}"                                                                 \
                 : WGMMA_OUT##N                                                                                                       \
                 : "l"(a), "l"(b), "r"(accumulate), "n"(transA), "n"(transB));                                                        \
  }
#define WGMMA_REGISTERS(N, A0, A1, A2, A3, B, P, TB)                                                                                  \
  template <int transB>                                                                                                               \
  __device__ __forceinline__ void wgmma_registers(float (&d)[N / 2], u32 a0, u32 a1, u32 a2, u32 a3, u64 b, int accumulate) {         \
    asm volatile("{.reg .pred p; setp.ne.b32 p, %" #P ", 0; wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" WGMMA_D##N    \
                 "}, {%" #A0 ", %" #A1 ", %" #A2 ", %" #A3 "}, %" #B ", p, 1, 1, %" #TB ";}"                                          \
                 : WGMMA_OUT##N                                                                                                       \
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b), "r"(accumulate), "n"(transB));                                         \
  }

// d [64, n] (+)= a [64, 16] b [16, n] by one warpgroup, asynchronously; without `accumulate` d is overwritten. With g = lane / 4
// and t = lane % 4 of warp w (of four), d[4 j + i] is row 16 w + g + 8 (i / 2), column 8 j + 2 t + i % 2. Operand a in
// registers: a0 row g columns 2 t and 2 t + 1, a1 row g + 8, a2 and a3 the same 8 columns on: the packed pairs of an accumulator.
WGMMA_SHARED(8, 4, 5, 6, 7, 8)
WGMMA_SHARED(16, 8, 9, 10, 11, 12)
WGMMA_SHARED(24, 12, 13, 14, 15, 16)
WGMMA_SHARED(32, 16, 17, 18, 19, 20)
WGMMA_SHARED(40, 20, 21, 22, 23, 24)
WGMMA_SHARED(48, 24, 25, 26, 27, 28)
WGMMA_SHARED(56, 28, 29, 30, 31, 32)
WGMMA_SHARED(64, 32, 33, 34, 35, 36)
WGMMA_SHARED(72, 36, 37, 38, 39, 40)
WGMMA_SHARED(80, 40, 41, 42, 43, 44)
WGMMA_SHARED(88, 44, 45, 46, 47, 48)
WGMMA_SHARED(96, 48, 49, 50, 51, 52)
WGMMA_SHARED(104, 52, 53, 54, 55, 56)
WGMMA_SHARED(112, 56, 57, 58, 59, 60)
WGMMA_SHARED(120, 60, 61, 62, 63, 64)
WGMMA_SHARED(128, 64, 65, 66, 67, 68)
WGMMA_SHARED(136, 68, 69, 70, 71, 72)
WGMMA_SHARED(144, 72, 73, 74, 75, 76)
WGMMA_SHARED(152, 76, 77, 78, 79, 80)
WGMMA_SHARED(160, 80, 81, 82, 83, 84)
WGMMA_SHARED(168, 84, 85, 86, 87, 88)
WGMMA_SHARED(176, 88, 89, 90, 91, 92)
WGMMA_SHARED(184, 92, 93, 94, 95, 96)
WGMMA_SHARED(192, 96, 97, 98, 99, 100)
WGMMA_SHARED(200, 100, 101, 102, 103, 104)
WGMMA_SHARED(208, 104, 105, 106, 107, 108)
WGMMA_SHARED(216, 108, 109, 110, 111, 112)
WGMMA_SHARED(224, 112, 113, 114, 115, 116)
WGMMA_SHARED(232, 116, 117, 118, 119, 120)
WGMMA_SHARED(240, 120, 121, 122, 123, 124)
WGMMA_SHARED(248, 124, 125, 126, 127, 128)
WGMMA_SHARED(256, 128, 129, 130, 131, 132)
WGMMA_REGISTERS(64, 32, 33, 34, 35, 36, 37, 38)
WGMMA_REGISTERS(128, 64, 65, 66, 67, 68, 69, 70)
