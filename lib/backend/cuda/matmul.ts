import { type DType, dtypes } from "../../dtype.js";
import { sizeOf } from "../../shape.js";
import type { ArrayRef, Backend, FusedKernels, MatmulSpec } from "../backend.js";
import type { CudaContext } from "./context.js";

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
    blas.multiply({
      ...{ batch, m, n, k, transposeA, transposeB },
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
      const c = result(a.storage.dtype, spec, `matmul ${spec.m}×${spec.n}`);
      if (spec.k === 0) emptyProduct(c, spec, bias, addend);
      else multiply(a, b, c, spec, { bias, addend });
      return c.storage;
    },
    matmulWide(a, b, spec, into) {
      const c = into ?? result("f32", spec, `gradient ${spec.m}×${spec.n}`);
      if (spec.k > 0) multiply(a, b, c, spec, { addend: into });
      else if (!into) emptyProduct(c, spec);
      return c.storage;
    },
  };

  /** A product over no elements: what is added to it, or zeros. */
  function emptyProduct(c: ArrayRef, { batch, m, n }: MatmulSpec, bias?: ArrayRef, addend?: ArrayRef): void {
    const { bytes } = dtypes[c.storage.dtype];
    const { driver, stream } = device;
    const at = device.address(c);
    if (addend && bias) throw new Error("matmul: a product over no elements takes a bias or an addend, not both");
    if (addend) driver.memcpyDtoD(at, device.address(addend), bytes * batch * m * n, stream);
    else if (!bias) driver.memsetD8(at, 0, bytes * batch * m * n, stream);
    else
      for (let i = 0; i < batch * m; i++)
        driver.memcpyDtoD(at + i * bytes * n, device.address(bias), bytes * n, stream);
  }
}
