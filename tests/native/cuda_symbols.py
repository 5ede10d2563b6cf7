"""Checks that the built library holds and registers CUDA kernels: ``make cuda-symbols``."""

import torch

from fastxai.ops import native

OPS = (
    "path_points",
    "path_reduce",
    "coalitions",
    "coalition_gram",
    "coalition_rhs",
    "lasso",
    "perturb",
    "ablate_one",
    "group_linear",
    "noisy_points",
    "noisy_reduce",
)


def main() -> None:
    native.backend()
    for op in OPS:
        registered = torch._C._dispatch_has_kernel_for_dispatch_key(f"fastxai::{op}", "CUDA")
        assert registered, f"fastxai::{op} has no CUDA kernel: {native.build_info().cuda}"
    assert b".nv_fatbin" in native.LIBRARY.read_bytes(), f"no device code in {native.LIBRARY}"
    print(f"{', '.join(OPS)}: {native.build_info().cuda}")


if __name__ == "__main__":
    main()
