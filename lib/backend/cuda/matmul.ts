import type { DType } from "../../dtype.js";
import { sizeOf } from "../../shape.js";
import type { ArrayRef, Backend, FusedKernels, MatmulSpec, Storage } from "../backend.js";
import type { CudaContext } from "./context.js";
import { elementwise, filled } from "./elementwise.js";
import { isFew, multiplyFew } from "./fused/fewRows.js";

/** Matrix products, rounded to the operands' dtype or kept in f32. */
export function matmulOperations(context: CudaContext): Pick<Backend, "matmul"> & Pick<FusedKernels, "matmulWide"> {
  const { device, blas, empty } = context;
  const multiply = (
    a: ArrayRef,
    b: ArrayRef,
    c: ArrayRef,
    spec: MatmulSpec,
    terms: { readonly bias?: ArrayRef; readonly addend?: ArrayRef },
  ): void => {
    const { batch, m, n, k, transposeA, transposeB } = spec;
    const address = (x: ArrayRef) => device.address(x);
    // Written out: spreading one object into another takes 20 µs here, which is longer than the product's launch.
    blas.multiply({
      batch,
      m,
      n,
      k,
      transposeA,
      transposeB,
      a: { address: address(a), pitch: transposeA ? m : k },
      b: { address: address(b), pitch: transposeB ? k : n },
      c: { address: address(c), pitch: n },
      dtype: a.storage.dtype,
      resultDtype: c.storage.dtype,
      bias: terms.bias && address(terms.bias),
      addend: terms.addend && { address: address(terms.addend), pitch: n },
    });
  };
  const result = (dtype: DType, { batch, m, n }: MatmulSpec, label: string): ArrayRef => {
    const shape = [batch, m, n];
    return { storage: empty(dtype, sizeOf(shape), label), offset: 0, shape };
  };

  return {
    matmul(a, b, spec, bias, addend) {
      if (spec.k === 0) return emptyProduct(a.storage.dtype, spec, bias, addend);
      const { dtype } = a.storage;
      if (bias && addend && dtype !== "f32") return roundedSum(a, b, spec, bias, addend);
      const c = result(dtype, spec, `matmul ${spec.m}×${spec.n}`);
      if (isFew(device, a, b, spec, [bias, addend])) {
        const [x, w, y] = [a, b, c].map((array) => device.address(array));
        const [added, residual] = [bias, addend].map((array) => (array ? device.address(array) : 0));
        multiplyFew(device, { x, w, bias: added, residual, y }, spec);
      } else multiply(a, b, c, spec, { bias, addend });
      return c.storage;
    },
    matmulWide(a, b, spec, into) {
      if (spec.k === 0) return into?.storage ?? emptyProduct("f32", spec);
      const c = into ?? result("f32", spec, `gradient ${spec.m}×${spec.n}`);
      multiply(a, b, c, spec, { addend: into });
      return c.storage;
    },
  };

  /** a·b + bias + addend, rounded once: with both terms cuBLASLt rounds in between. */
  function roundedSum(a: ArrayRef, b: ArrayRef, spec: MatmulSpec, bias: ArrayRef, addend: ArrayRef): Storage {
    const product = result("f32", spec, "matmul");
    multiply(a, b, product, spec, {});
    const terms = [product, bias, { ...addend, shape: product.shape }];
    const sum = elementwise(context, "a + b + c", terms, product.shape, a.storage.dtype, "matmul");
    product.storage.backend.free(product.storage);
    return sum;
  }

  /** A product over no elements: the sum of what is added to it. */
  function emptyProduct(dtype: DType, { batch, m, n }: MatmulSpec, ...terms: (ArrayRef | undefined)[]): Storage {
    const shape = [batch, m, n];
    const given = terms.filter((term) => term !== undefined);
    if (given.length === 0) return filled(context, dtype, sizeOf(shape), 0, "matmul");
    const aligned = given.map((term) => ({ ...term, shape: term.shape.length < 2 ? term.shape : shape }));
    return elementwise(context, ["a", "a + b"][given.length - 1], aligned, shape, dtype, "matmul");
  }
}
