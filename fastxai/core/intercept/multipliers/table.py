"""Which operation has which rule."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..relu import Function, spellings
from . import elementwise, maxima, products, recurrent, sums, written_out
from .calls import Call, Rule
from .written_out import opened


def _for_all(functions: Iterable[Function], rule: Any) -> dict[Function, Any]:
    return dict.fromkeys(functions, rule)


def _every(names: str) -> set[Function]:
    return spellings(*names.split())


def _size_along(call: Call) -> int:
    return int(call.operands[0].shape[call.argument(1, "dim")])


def _last_size(call: Call) -> int:
    return int(call.operands[0].shape[-1])


_ONE_TO_ONE = """
    relu6 leaky_relu elu celu selu silu gelu sigmoid tanh softplus hardtanh hardswish hardsigmoid
    mish exp expm1 exp2 log log1p log2 log10 abs absolute sqrt rsqrt reciprocal __rpow__
    square logsigmoid log_sigmoid clamp_min clamp_max threshold _threshold softsign
    tanhshrink hardshrink softshrink prelu rrelu erf erfc expit sin cos tan sinh cosh asin acos atan
    asinh acosh atanh arctan arcsin arccos arcsinh arccosh arctanh sign sgn logit sinc erfinv erfcx
    lgamma gammaln digamma psi polygamma mvlgamma i0 i0e i1 i1e entr ndtr ndtri log_ndtr nan_to_num
    floor ceil round trunc fix frac exponential_integral bessel_j0 bessel_j1 matrix_log
"""
_SHARED = """
    pow __pow__ float_power fmax fmin atan2 arctan2 hypot logaddexp logaddexp2 fmod remainder
    __mod__ __rmod__ xlogy xlog1py copysign heaviside ldexp floor_divide __floordiv__
    __rfloordiv__ gammainc gammaincc zeta
"""
_PLACES = {
    ((0, "input"), (1, "other")): """
        matmul __rmatmul__ outer ger inner kron vecdot cross tensordot linalg_vecdot linalg_cross
        __matmul__
    """,
    ((0, "input"), (1, "vec2")): "outer ger",
    ((0, "input"), (1, "mat2")): "bmm mm mv dot vdot",
    ((0, "input"), (1, "weight")): """
        linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d
    """,
    ((0, "input1"), (1, "input2"), (2, "weight")): "bilinear",
    ((1, "batch1"), (2, "batch2")): "baddbmm addbmm",
    ((1, "mat1"), (2, "mat2")): "addmm",
    ((1, "mat"), (2, "vec")): "addmv",
    ((1, "vec1"), (2, "vec2")): "addr",
    ((1, "tensor1"), (2, "tensor2")): "addcmul",
}
_TWO = ((0, "input"), (1, "other"))
_THREE = ((0, "input"), (1, "tensor1"), (2, "tensor2"))
_LOSS = ((0, "input"), (1, "target"), (2, "weight"), (3, "pos_weight"))
_LOSSES = """
    mse_loss l1_loss smooth_l1_loss huber_loss binary_cross_entropy kl_div poisson_nll_loss
    binary_cross_entropy_with_logits soft_margin_loss hinge_embedding_loss
"""
_SMOOTH = "inv inv_ex inverse solve matrix_exp slogdet logdet cholesky pinv matrix_power"
_linalg = {name: getattr(torch.linalg, name) for name in ("vecdot", "cross", "det")}
_masks = _for_all(
    _every("mul multiply __rmul__ __mul__"), Rule(products.factor, _TWO, linear=True, masks=True)
)
_share = Rule(elementwise.shared_out, _TWO, masks=True)

RULES: dict[Function, Rule] = {
    **_for_all(_every(_ONE_TO_ONE), Rule(elementwise.scaled_by(elementwise.rescale))),
    **_for_all(spellings("relu"), Rule(elementwise.scaled_by(elementwise.relu))),
    **_for_all(_every(_SHARED), _share),
    **_for_all(
        spellings("pow", "__pow__", "float_power"),
        Rule(elementwise.shared_out, ((0, "input"), (1, "exponent")), masks=True),
    ),
    **_for_all(
        spellings("clamp", "clip"),
        Rule(elementwise.shared_out, ((0, "input"), (1, "min"), (2, "max")), masks=True),
    ),
    **_for_all(
        spellings("lerp"),
        Rule(elementwise.shared_out, ((0, "input"), (1, "end"), (2, "weight")), masks=True),
    ),
    **_for_all(spellings("addcdiv"), Rule(elementwise.shared_out, _THREE, masks=True)),
    **_for_all(
        (f for f in _every(_LOSSES) if not isinstance(f, FunctionType)),
        Rule(elementwise.shared_out, _LOSS, masks=True),
    ),
    **_for_all(spellings("softmax", "log_softmax"), Rule(sums.softmax)),
    **_for_all(spellings("logsumexp"), Rule(sums.log_of_sum)),
    **_for_all(spellings("layer_norm", "rms_norm"), Rule(sums.layer_norm)),
    **_for_all(spellings("group_norm"), Rule(sums.group_norm)),
    **_for_all(spellings("instance_norm"), Rule(sums.instance_norm)),
    **_for_all(maxima.POOLS, Rule(maxima.max_pool)),
    **_for_all(spellings("amax", "max"), Rule(maxima.greatest, along=True)),
    **_for_all(spellings("sort"), Rule(maxima.ordered(1))),
    **_for_all(spellings("topk", "kthvalue"), Rule(maxima.ordered(2))),
    **_for_all(spellings("median", "nanmedian"), Rule(maxima.ordered(1), along=True)),
    **_for_all(spellings("prod", "cumprod"), Rule(products.of_degree(_size_along), along=True)),
    **_for_all({*spellings("det"), _linalg["det"]}, Rule(products.of_degree(_last_size))),
    **_masks,
    torch.einsum: Rule(products.product, ((1, "operands"),), and_more=True, linear=True),
}
for _places, _names in _PLACES.items():
    RULES.update(_for_all(_every(_names), Rule(products.product, _places, linear=True)))
for _places, _names in ((_TWO, "matmul __matmul__"), (((0, "input"), (1, "mat2")), "bmm mm")):
    RULES.update(_for_all(_every(_names), Rule(products.of_matrices, _places, linear=True)))
for _name in ("vecdot", "cross"):
    RULES[_linalg[_name]] = Rule(products.product, _TWO, linear=True)
_where = Rule(elementwise.chosen, ((0, "condition"), (1, "input"), (2, "other")), masks=True)
RULES[torch.where] = _where
RULES[Tensor.where] = Rule(
    elementwise.chosen, ((1, "condition"), (0, "input"), (2, "other")), masks=True
)

COMPOSITES: dict[Function, Function] = {
    F.multi_head_attention_forward: opened(F.multi_head_attention_forward),
    F.softmin: lambda x, dim=None, *_, **__: F.softmax(-x, dim),
    **_for_all(spellings("scaled_dot_product_attention"), written_out.attention),
    **_for_all(_every("div divide true_divide __truediv__"), written_out.div),
    **_for_all({Tensor.div_, Tensor.divide_, Tensor.true_divide_}, written_out.div_),
    **_for_all({Tensor.__rdiv__, Tensor.__rtruediv__}, lambda x, other: x.reciprocal() * other),
    **_for_all({F.normalize}, written_out.normalize),
    **_for_all(spellings("cosine_similarity"), written_out.cosine_similarity),
    **_for_all({torch.norm, Tensor.norm, torch.linalg.vector_norm}, written_out.norm),
    torch.linalg.norm: written_out.linalg_norm,
    torch.linalg.matrix_norm: written_out.matrix_norm,
    torch.cdist: written_out.cdist,
    F.pairwise_distance: written_out.pairwise_distance,
    **_for_all(spellings("var"), written_out.var),
    **_for_all(spellings("std"), written_out.std),
    **_for_all(spellings("var_mean"), written_out.and_mean(written_out.var)),
    **_for_all(spellings("std_mean"), written_out.and_mean(written_out.std)),
    **_for_all(spellings("maximum"), written_out.maximum),
    **_for_all(spellings("minimum"), written_out.minimum),
    **_for_all(spellings("max"), written_out.greater),
    **_for_all(spellings("min"), written_out.least),
    **_for_all(spellings("amin"), written_out.amin),
    **_for_all(spellings("aminmax"), written_out.aminmax),
    **_for_all(spellings("quantile"), written_out.quantile),
    **_for_all(spellings("glu"), written_out.glu),
    **_for_all({torch.masked_fill, Tensor.masked_fill}, written_out.masked_fill),
    Tensor.masked_fill_: written_out.masked_fill_,
    Tensor.__setitem__: written_out.setitem,
    **_for_all(spellings("abs", "absolute") - {Tensor.abs_, Tensor.absolute_}, written_out.modulus),
    **_for_all(spellings("angle"), written_out.angle),
    torch.polar: written_out.polar,
    torch.linalg.multi_dot: written_out.multi_dot,
    F.cross_entropy: written_out.cross_entropy,
    **{getattr(F, name): written_out.reduced(getattr(F, name)) for name in _LOSSES.split()},
    **{getattr(torch, name): recurrent.layers(name) for name in recurrent.STEPS},
    **{getattr(torch, f"{name}_cell"): recurrent.cell(name) for name in recurrent.STEPS},
}

# Linear, or without a derivative, or only about shapes: their gradients are their multipliers.
_LINEAR = _every("""
    add sub subtract rsub neg negative positive sum mean cumsum nansum diff trace clone copy
    contiguous to type type_as double float half bfloat16 detach requires_grad view view_as
    reshape reshape_as flatten unflatten ravel squeeze unsqueeze transpose t permute movedim
    moveaxis swapaxes swapdims expand expand_as broadcast_to repeat repeat_interleave tile cat
    concat concatenate stack hstack vstack dstack column_stack chunk split tensor_split unbind
    narrow select index_select gather take take_along_dim masked_select diagonal diag diag_embed
    tril triu flip fliplr flipud roll rot90 pad constant_pad_nd embedding dropout dropout1d
    dropout2d dropout3d alpha_dropout feature_alpha_dropout batch_norm avg_pool1d avg_pool2d
    avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d interpolate upsample
    upsample_nearest upsample_bilinear pixel_shuffle pixel_unshuffle channel_shuffle fold unfold
    im2col col2im index_add index_copy index_put scatter scatter_add real imag view_as_real
    view_as_complex complex conj resolve_conj resolve_neg adjoint matmul linear conv1d conv2d
    conv3d nll_loss nll_loss_nd nll_loss2d size dim stride numel is_contiguous is_floating_point
    is_complex item tolist numpy cpu cuda deg2rad rad2deg zeros_like ones_like empty_like
    full_like rand_like randn_like new_zeros new_ones new_empty new_full new_tensor argmax
    argmin argsort unique bincount gt ge lt le eq ne isnan isinf isfinite greater less
    logical_and logical_or logical_not any all bool int long data_ptr element_size is_set_to
    storage set stft istft hann_window as_strided slice_scatter select_scatter diagonal_scatter
    atleast_1d atleast_2d atleast_3d
""") | {
    getattr(Tensor, f"__{name}__")
    for name in (
        *("add", "radd", "iadd", "sub", "rsub", "isub", "neg", "getitem", "setitem", "len", "iter"),
        *("bool", "int", "float", "index", "contains", "gt", "ge", "lt", "le", "eq", "ne", "and"),
        *("or", "xor", "invert", "format", "repr", "hash", "deepcopy"),
    )
}
_IN_PYTHON = ("torch.nn.functional", "torch.functional")


@cache
def in_python(func: Function) -> Function | None:
    """The function with its operations to be seen, where it is one of torch's in Python."""
    is_known = func in RULES or func in COMPOSITES or func in _LINEAR
    is_one = isinstance(func, FunctionType) and func.__module__ in _IN_PYTHON
    return opened(func) if is_one and not is_known else None


@cache
def has_no_rule(func: Function) -> bool:
    """Whether the operation may be other than linear and has no rule."""
    is_attribute = getattr(func, "__name__", "") in ("__get__", "__set__")
    is_spectrum = "fft" in getattr(func, "__name__", "")
    is_known = func in RULES or func in COMPOSITES or func in _LINEAR
    return not (is_known or is_attribute or is_spectrum)
