"""Restored images compared as images: PSNR with the true data range, largest difference, and finiteness."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from polygraphy.comparator import BaseCompareFunc, CompareResult, IterationResult, Threshold
from polygraphy.comparator.compare import run_comparison
from polygraphy.json import Decoder, Encoder
from polygraphy.logger import G_LOGGER

from ...instrumentation.metrics import psnr_of
from ...manifest import IMAGE_OUTPUT, Manifest


class ImageThreshold(Threshold):
    """When two restored images agree: every value is finite, and none of these limits is passed.

    Parameters
    ----------
    psnr
        Least PSNR in dB; None to show it without judging it.
    max_abs
        Largest absolute difference, in the value range's units; None likewise.
    """

    METRIC_FIELDS = ["psnr", "max_abs", "mean_abs", "nonfinite"]  # noqa: RUF012 - as Polygraphy declares it

    def __init__(self, psnr: float | None, max_abs: float | None = None) -> None:
        self.psnr, self.max_abs = psnr, max_abs

    def passed(self, metric_values: Mapping[str, float]) -> bool:
        """Whether these numbers keep within the limits."""
        return (
            metric_values["nonfinite"] == 0
            and (self.psnr is None or metric_values["psnr"] >= self.psnr)
            and (self.max_abs is None or metric_values["max_abs"] <= self.max_abs)
        )

    def describe(self, metric_values: Mapping[str, float]) -> tuple[str, bool]:
        """A line for the log, and the verdict."""
        psnr, most, mean, nonfinite = (metric_values[name] for name in self.METRIC_FIELDS)
        passed = self.passed(metric_values)
        limits = [f"min required: {self.psnr:g} dB"] if self.psnr is not None else []
        if self.max_abs is not None:
            limits.append(f"max abs tolerance: {self.max_abs:g}")
        return (
            f"PSNR: {'equal' if psnr == np.inf else f'{psnr:.2f} dB'}, max abs: {most:.3g}, mean abs: {mean:.3g}, "
            f"NaN or infinite: {nonfinite:.0f} ({', '.join([*limits, 'all finite'])}) | "
            f"{'PASSED' if passed else 'FAILED'}",
            passed,
        )


class ImageResult(CompareResult):
    """The numbers between two restored images.

    Parameters
    ----------
    psnr
        dB, on values that are neither rounded nor clipped; infinite for equal images.
    max_abs, mean_abs
        Absolute differences, in the value range's units.
    nonfinite
        Values of either image that are NaN or infinite; where there are any, the other numbers are NaN.
    thresholds
        The `ImageThreshold` that they are held against.
    """

    _THRESHOLD_CLASS = ImageThreshold

    def __init__(
        self, psnr: float, max_abs: float, mean_abs: float, nonfinite: float, thresholds: ImageThreshold | None = None
    ) -> None:
        super().__init__(thresholds=thresholds)
        self.psnr, self.max_abs, self.mean_abs, self.nonfinite = psnr, max_abs, mean_abs, nonfinite


class ImageCompareFunc(BaseCompareFunc):
    """Compares ``restored`` of two runners, for `Comparator.compare_accuracy`.

    Polygraphy's own PSNR takes the largest value of the first image for the peak, so that a dark image scores worse
    than the same error on a bright one; its `simple` compares element by element with atol and rtol, and NaN passes
    where both are.

    Parameters
    ----------
    value_range
        What black and white are in the tensors: the manifest's `value_range`.
    psnr, max_abs
        The limits, see `ImageThreshold`.
    """

    _RESULT_CLASS = ImageResult

    def __init__(
        self,
        value_range: tuple[float, float] = (0.0, 1.0),
        psnr: float | None = None,
        max_abs: float | None = None,
    ) -> None:
        self._value_range, self._psnr, self._max_abs = value_range, psnr, max_abs

    @classmethod
    def from_manifests(cls, manifests: Sequence[Manifest]) -> ImageCompareFunc:
        """The rule of ``keygraph compare``: that of the lowest precision among them."""
        from ..pass_criteria import tolerance

        return cls(manifests[0].value_range, tolerance([manifest.precision for manifest in manifests]).psnr)

    def thresholds_for(self, output_name: str) -> ImageThreshold:
        """The limits; see `BaseCompareFunc.thresholds_for`."""
        return ImageThreshold(self._psnr, self._max_abs)

    def __call__(self, iter_result0: IterationResult, iter_result1: IterationResult) -> OrderedDict[str, Any]:
        """Compare one iteration; the result is false in a condition where the images differ, or their shapes do."""

        def match(_name0: str, output0: Any, _name1: str, output1: Any) -> ImageResult | bool:
            images = [np.asarray(output) for output in (output0, output1)]
            if images[0].shape != images[1].shape:
                G_LOGGER.error(f"FAILED | The images have different shapes: {images[0].shape} and {images[1].shape}")
                return False
            result = self.measure(images[0], images[1])
            line, passed = result.describe()
            (G_LOGGER.finish if passed else G_LOGGER.error)(line)
            return result

        def find(name: str, _index: int, other: IterationResult) -> list[str] | None:
            return [name] if name == IMAGE_OUTPUT and name in other else None

        return run_comparison(match, False, iter_result0, iter_result1, find, func_name="Image")

    def measure(self, candidate: np.ndarray[Any, Any], reference: np.ndarray[Any, Any]) -> ImageResult:
        """The numbers between two arrays of one shape."""
        nonfinite = sum(int((~np.isfinite(image)).sum()) for image in (candidate, reference))
        threshold = self.thresholds_for(IMAGE_OUTPUT)
        if nonfinite:
            return ImageResult(np.nan, np.nan, np.nan, nonfinite, thresholds=threshold)
        error = np.abs(candidate.astype(np.float64) - reference.astype(np.float64))
        psnr = psnr_of(float(np.mean(error**2)), self._value_range)
        return ImageResult(psnr, float(error.max()), float(error.mean()), 0, thresholds=threshold)


# So that `polygraphy run --save-accuracy-results` can write them, and `polygraphy check accuracy` read them back.
@Encoder.register(ImageThreshold)
def _encode_threshold(threshold: ImageThreshold) -> dict[str, Any]:
    return {"psnr": threshold.psnr, "max_abs": threshold.max_abs}


@Decoder.register(ImageThreshold)
def _decode_threshold(values: dict[str, Any]) -> ImageThreshold:
    return ImageThreshold(values["psnr"], values["max_abs"])


@Encoder.register(ImageResult)
def _encode_result(result: ImageResult) -> dict[str, Any]:
    return {**result.metric_values(), "thresholds": result.thresholds}


@Decoder.register(ImageResult)
def _decode_result(values: dict[str, Any]) -> ImageResult:
    return ImageResult(**{name: values[name] for name in (*ImageResult.metric_fields(), "thresholds")})
