import type { DType } from "../../dtype.js";
import { kernelSource } from "./kernels.js";

/** Threads of a block. */
export const BLOCK = 256;

/**
 * How an operand goes along with a walk in rows: through everything, along each row (the same for some rows), one element
 * a row, one element for all.
 */
export type Kind = "full" | "row" | "column" | "scalar";

const cTypes: Partial<Record<DType, string>> = {
  ...{ f32: "float", bf16: "bf16", f16: "f16", i32: "int", u32: "u32", u8: "u8", bool: "flag" },
};

function cName(dtype: DType): string {
  const name = cTypes[dtype];
  if (!name) throw new Error(`cuda has no ${dtype}`);
  return name;
}

/**
 * The source of a kernel for rows of elements over `rank` outer axes (0: one row). `types` are the element types of the result
 * and the operands; `pack` elements are moved at once; `index` is what counts elements. Arguments: addresses of the result and
 * the operands; the size, or the number of packs and those of a row and all outer extents but the first; the outer strides of
 * each operand that is a row or a column.
 */
export function elementwiseSource(
  entry: string,
  expression: string,
  types: readonly DType[],
  kinds: readonly Kind[],
  rank: number,
  pack: number,
  index: "u32" | "u64",
): string {
  const [result, ...operands] = types.map(cName);
  const letters = operands.map((_, i) => "abcdefghijklmnop"[i]);
  const axes = Array.from({ length: rank }, (_, d) => d);
  const lines = (pieces: readonly string[], indent: string) => pieces.map((piece) => `${indent}${piece}\n`).join("");
  const strided = kinds.flatMap((kind, i) => (kind === "row" || kind === "column" ? [i] : []));
  const parameters = [
    `${result} *out`,
    ...operands.map((type, i) => `const ${type} *in${i}`),
    ...(rank === 0 ? ["Index size"] : ["Index packs", "Index width"]),
    ...axes.slice(1).map((d) => `Index extent${d}`),
    ...strided.flatMap((i) => axes.map((d) => `Index stride${i}_${d}`)),
  ];
  const isPacked = (i: number) => kinds[i] === "full" || kinds[i] === "row";
  const at = (i: number) => axes.map((d) => `at${d} * stride${i}_${d}`).join(" + ");
  const loads = kinds.flatMap((kind, i) => {
    if (kind === "full") return [`const auto p${i} = *(const Pack<${operands[i]}, ${pack}> *)(in${i} + p * ${pack});`];
    const start = kind === "row" ? `${at(i)} + column * ${pack}` : at(i);
    if (kind === "row") return [`const auto p${i} = *(const Pack<${operands[i]}, ${pack}> *)(in${i} + (${start}));`];
    return kind === "column" ? [`const auto v${i} = value_of(in${i}[${start}]);`] : [];
  });
  const values = kinds.map((_, i) => (isPacked(i) ? `value_of(p${i}.at[j])` : `v${i}`));
  const places =
    rank === 0
      ? []
      : [
          "Index at0 = p / width;",
          "const Index column = p - at0 * width;",
          ...axes
            .slice(1)
            .reverse()
            .flatMap((d) => [`const Index at${d} = at0 % extent${d};`, `at0 /= extent${d};`]),
        ];
  const tail =
    rank > 0 || pack === 1
      ? ""
      : `  for (Index i = packs * ${pack} + first; i < size; i += step)
    out[i] = Convert<${result}>::from(expression(${kinds.map((kind, i) => (kind === "full" ? `value_of(in${i}[i])` : `v${i}`)).join(", ")}));
`;
  return `${kernelSource("elementwise")}
typedef ${index} Index;

__device__ __forceinline__ auto expression(${operands.map((type, i) => `decltype(value_of(${type}())) ${letters[i]}`).join(", ")}) {
  return ${expression};
}

extern "C" __global__ void __launch_bounds__(${BLOCK}) ${entry}(${parameters.join(", ")}) {
  const Index first = (Index)blockIdx.x * ${BLOCK} + threadIdx.x, step = (Index)gridDim.x * ${BLOCK};
${rank === 0 ? `  const Index packs = size / ${pack};\n` : ""}${lines(
  kinds.flatMap((kind, i) => (kind === "scalar" ? [`const auto v${i} = value_of(*in${i});`] : [])),
  "  ",
)}  for (Index p = first; p < packs; p += step) {
${lines([...places, ...loads], "    ")}    Pack<${result}, ${pack}> y;
#pragma unroll
    for (int j = 0; j < ${pack}; j++) y.at[j] = Convert<${result}>::from(expression(${values.join(", ")}));
    *(Pack<${result}, ${pack}> *)(out + p * ${pack}) = y;
  }
${tail}}
`;
}
