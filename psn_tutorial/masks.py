"""Padding: which entries of a [B, T] tensor are completion tokens.

Completions of one batch end at different tokens; the entries behind the end-of-text token hold
whatever the forward pass left there, NaN included. Every function that takes [B, T] tensors gets
its mask from here and replaces padding with ``torch.where`` BEFORE it computes: a product with 0
would keep a NaN, in the value and in the gradient.
"""

import torch
from torch import Tensor

from psn_tutorial.errors import UserError


def token_mask(mask: Tensor, **fields: Tensor | None) -> Tensor:
    """Return ``mask`` as a boolean tensor, once everything has one shape.

    Args:
        mask: [B, T], bool or 0/1: 1 on the completion tokens up to and including the end of text.
        fields: [B, T] each, by the caller's own argument names; the first one gives the shape and
            None (an option not used) is passed over.

    Returns:
        [B, T] bool.

    Raises:
        UserError: a field is no tensor or not of the first one's shape, the shape is not [B, T], or
            ``mask`` holds anything but 0 and 1.
    """
    first, shape = "", []
    for name, value in {**fields, "mask": mask}.items():
        if value is None and name != "mask":
            continue
        if not isinstance(value, Tensor):
            raise UserError(f"{name} must be a torch.Tensor [B, T], got {type(value).__name__}")
        if not first:
            first, shape = name, list(value.shape)
            if len(shape) != 2:
                raise UserError(f"{name} must have the shape [B, T], got {shape}")
        if list(value.shape) != shape:
            raise UserError(f"{name} has the shape {list(value.shape)}, which does not match {first} {shape}")
    if mask.dtype == torch.bool:
        return mask
    if not ((mask == 0) | (mask == 1)).all():
        raise UserError("mask must hold only 0 and 1 (or be boolean)")
    return mask == 1


def first_unusable(mask: Tensor, **fields: Tensor) -> str:
    """Say which field is NaN or infinite at a completion token, and where; "" when none is.

    Args:
        mask: [B, T] bool, from :func:`token_mask`.
        fields: [B, T] each, by the caller's own argument names.
    """
    for name, value in fields.items():
        bad = (mask & ~value.isfinite()).nonzero()
        if len(bad):
            row, token = bad[0].tolist()
            return f"{name} must be finite where mask is 1, got {value[row, token].item()} in row {row}, token {token}"
    return ""
