"""Averaged weights (EMA, SWA) in a checkpoint: telling them from raw ones, and completing them.

Trainers keep averages in many forms. The rules here go by names and by structure:

- A dictionary or a prefix is averaged if one of the words in its name is `ema`, `swa`, `averaged`, `shadow`, ...
- ``torch.optim.swa_utils.AveragedModel``: a counter ``n_averaged`` beside the prefix ``module.``.
- Some trainers *exchange* raw and averaged weights when they save: Lightning's ``WeightAveraging`` puts the average in
  ``state_dict`` and the raw weights in ``current_model_state``; MMEngine's ``EMAHook`` puts the raw weights in
  ``ema_state_dict``, and MMCV's in buffers ``ema_...``.
- An average that was never updated is a copy of the first weights, and is no average.
- Averages may be a list in the order of the parameters, may lack buffers, or have names without dots. They are fitted
  to the raw weights of the same file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from .pickled.values import entries

_WORDS = {"ema", "swa", "avg", "average", "averaged", "averaging", "shadow", "polyak"}

#: Names that the word is written together with.
_TOGETHER = re.compile(r"ema(model|net|network|weights?|params?|parameters|state|dict)?\d*|(model|net|params?|[gd])ema")

#: Words of raw weights within something averaged, such as the `online_model` of an EMA wrapper.
_RAW = {"online", "raw", "live", "current", "backup", "collected"}

#: Words of averages within something averaged, whose other parts are then raw.
_AVERAGES = {"teacher", "target"}

#: Counters of updates beside an average, and those that are trusted beside other things as well.
_COUNTERS = {"initted", "optimization_step", "steps"}
_COUNTER_OF_AVERAGE = re.compile(
    r"(model_)?(ema|swa|avg|averaged?)_?((num|n)_)?(updates?|steps?|count)|(num|n)_(ema_|swa_)?(updates|averaged)|updates"
)

#: Prefix of buffers that hold one of two sets of weights, with the dots of their names replaced.
FLAT = "ema_"

#: Words of what is no weight although it has one of `_WORDS` in its name: Adam's moments.
_MOMENTS = {"exp", "sq", "square", "grad"}


def words(name: str) -> list[str]:
    """Return the words of a name in lower case: ``EMAWeightAveraging`` has three."""
    spaced = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", re.sub(r"([A-Z]+)([A-Z][a-z])", r"\1 \2", name))
    return re.findall(r"[a-z]+\d*", spaced.lower())


def looks_averaged(*names: str) -> bool:
    """Tell whether names, outer ones first, say that what they hold is averaged; the innermost that says so decides."""
    for name in reversed(names):
        found = words(name)
        if _RAW.intersection(found):
            return False
        if not _MOMENTS.intersection(found) and any(w in _WORDS or _TOGETHER.fullmatch(w) for w in found):
            return True
    return False


def exchanged(loaded: Any) -> dict[str, tuple[bool, list[Mapping[Any, Any]]]]:
    """Return entries whose names mislead: top-level names, or `FLAT`.

    Returns
    -------
    dict
        Whether the weights of an entry are averaged, and where the counter of the average is.
    """
    top = entries(loaded) or {}
    meta = entries(top.get("meta")) or {}
    if "averaging_state" in top and "current_model_state" in top:
        return {"state_dict": (True, [entries(top["averaging_state"]) or {}]), "current_model_state": (False, [])}
    if "ema_state_dict" in top and "mmengine_version" in meta:
        counter = {name: value for name, value in (entries(top["ema_state_dict"]) or {}).items() if name == "steps"}
        return {"state_dict": (True, [counter]), "ema_state_dict": (False, [])}
    return {FLAT: (False, [])} if "mmcv_version" in meta and "mmengine_version" not in meta else {}


def raw_beside(names: Sequence[str], average: Sequence[str]) -> bool:
    """Tell whether what is averaged by the name of its holder is raw, because a part beside it is the average.

    Parameters
    ----------
    names
        Names of what may be raw, outer ones first: ``("ema", "model")``.
    average
        Names of something averaged in the same file: ``("ema", "shadow")``.
    """
    shared = next((i for i, (one, other) in enumerate(zip(names, average, strict=False)) if one != other), None)
    if shared is None or not looks_averaged(*names[:shared]):
        return False

    def explicit(inner: Sequence[str]) -> bool:
        return looks_averaged(*inner) or bool(_AVERAGES.intersection(words(inner[0])))

    return explicit(average[shared:]) and not explicit(names[shared:])


def updated(beside: Iterable[Mapping[Any, Any]], outer: Mapping[Any, Any] | None = None) -> bool:
    """Tell whether an average was ever updated, by the counters that are stored beside it.

    Parameters
    ----------
    beside
        What the average is stored with.
    outer
        The dictionary that also holds other things, where only some names of counters are trusted.
    """
    for found, own in [*((one, True) for one in beside), *([(outer, False)] if outer else [])]:
        # ema_pytorch counts steps, and says separately that it has copied the first weights.
        counters = _COUNTERS | ({"step"} if "initted" in found else set()) if own else set()
        counts = [
            bool(count)
            for name, count in found.items()
            if isinstance(name, str) and (name in counters or _COUNTER_OF_AVERAGE.fullmatch(name))
            if isinstance(count, (bool, int)) or (isinstance(count, Tensor) and count.numel() == 1)
        ]
        if counts:
            return all(counts)
    return True


def fit(
    raw: Mapping[str, Tensor], found: Mapping[str, Tensor] | Sequence[Tensor]
) -> tuple[dict[str, Tensor], int] | None:
    """Name averaged tensors as the raw ones, and complete them.

    Parameters
    ----------
    raw
        The raw weights.
    found
        Averaged tensors: by other names, or in the order of the parameters.

    Returns
    -------
    (state, filled) or None
        A tensor for each key of `raw`, averaged where there is one, else raw; and the number of raw ones. None if they
        do not fit.
    """
    named = _by_order(raw, found) if isinstance(found, Sequence) else _by_name(raw, found)
    if not named or any(raw[key].shape != value.shape for key, value in named.items()):
        return None
    return {**raw, **named}, len(raw) - len(named)


def _by_name(raw: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """Match names, without leading parts that either side has more of, or with dots removed or replaced."""
    for joint in (".", "", "_"):
        names = {key.replace(".", joint): key for key in raw}
        if len(names) < len(raw):
            continue
        tensors = dict(found)
        while True:
            known = {names[key]: value for key, value in tensors.items() if key in names}
            # Counters such as `decay` are no weights.
            if known and all(value.numel() == 1 for key, value in tensors.items() if key not in names):
                return known
            shorter = {key.partition(".")[2]: value for key, value in tensors.items() if "." in key}
            if not shorter or len({key.partition(".")[0] for key in tensors if "." in key}) > 1:
                break
            tensors = shorter
    return None


def _by_order(raw: Mapping[str, Tensor], found: Sequence[Tensor]) -> dict[str, Tensor] | None:
    """Match a list to the keys in order, skipping buffers, if the shapes leave exactly one way."""
    first, last = _embed(list(raw), raw, list(found)), _embed(list(raw)[::-1], raw, list(found)[::-1])
    if first is None or last is None or first != last[::-1]:
        return None
    return dict(zip(first, found, strict=True))


def _embed(keys: list[str], raw: Mapping[str, Tensor], found: list[Tensor]) -> list[str] | None:
    chosen: list[str] = []
    for key in keys:
        if len(chosen) < len(found) and raw[key].shape == found[len(chosen)].shape:
            chosen.append(key)
    return chosen if len(chosen) == len(found) else None
