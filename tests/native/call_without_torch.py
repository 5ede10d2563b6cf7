"""Calls fastxai::path_points through torch's C API: what a host without Python's torch does.

Run by tests/test_build.py on another Python: call_without_torch.py TORCH_LIBRARIES LIBRARY.
"""

import ctypes
import json
import sys
from ctypes import POINTER, byref, c_char_p, c_double, c_float, c_int32, c_int64, c_void_p
from pathlib import Path


def main(torch_libraries: Path, library: Path) -> None:
    torch = ctypes.CDLL(str(torch_libraries / "libtorch_cpu.so"), ctypes.RTLD_GLOBAL)
    ctypes.CDLL(str(torch_libraries / "libtorch.so"), ctypes.RTLD_GLOBAL)
    ctypes.CDLL(str(library))
    for name in ("aoti_torch_dtype_float32", "aoti_torch_dtype_float64"):
        getattr(torch, name).restype = c_int32
    torch.aoti_torch_call_dispatcher.argtypes = [c_char_p, c_char_p, POINTER(c_void_p)]
    torch.aoti_torch_get_data_ptr.argtypes = [c_void_p, POINTER(c_void_p)]
    float32, float64 = torch.aoti_torch_dtype_float32(), torch.aoti_torch_dtype_float64()

    memory = []  # the tensors borrow it

    def tensor(values: list[float], shape: list[int], dtype: int) -> c_void_p:
        data = ((c_float if dtype == float32 else c_double) * len(values))(*values)
        memory.append(data)
        strides = [1] if len(shape) == 1 else [shape[1], 1]
        handle = c_void_p()
        sizes_type = c_int64 * len(shape)
        check(
            torch.aoti_torch_create_tensor_from_blob(
                data,
                c_int64(len(shape)),
                sizes_type(*shape),
                sizes_type(*strides),
                c_int64(0),
                c_int32(dtype),
                c_int32(0),
                c_int32(0),
                byref(handle),
            )
        )
        return handle

    input = tensor([1.0, 2.0], [1, 2], float32)
    baseline = tensor([10.0, 20.0], [1, 2], float32)
    alphas = tensor([0.0, 0.5, 1.0], [3], float64)
    stack = (c_void_p * 3)(input, baseline, alphas)  # the call takes them over
    check(torch.aoti_torch_call_dispatcher(b"fastxai::path_points", b"", stack))
    data = c_void_p()
    check(torch.aoti_torch_get_data_ptr(c_void_p(stack[0]), byref(data)))
    points = ctypes.cast(data, POINTER(c_float * 6)).contents
    print(json.dumps([[[points[2 * s], points[2 * s + 1]]] for s in range(3)]))


def check(error: int) -> None:
    if error:
        raise RuntimeError("a call into torch failed")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
