"""Comparison of output images: PSNR with the true data range, largest difference, and finiteness."""

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
    """Limits within which two output images agree; in addition, every value must be finite.

    Parameters
    ----------
    psnr
        Lowest PSNR in dB; None to report it without a limit.
    max_abs
        Largest absolute difference, in units of the value range; None likewise.
    """

    METRIC_FIELDS = ["psnr", "max_abs", "mean_abs", "nonfinite"]  # noqa: RUF012 - as Polygraphy declares it

    def __init__(self, psnr: float | None, max_abs: float | None = None) -> None:
        self.psnr, self.max_abs = psnr, max_abs

    def passed(self, metric_values: Mapping[str, float]) -> bool:
        """Return whether these numbers are within the limits."""
        return (
            metric_values["nonfinite"] == 0
            and (self.psnr is None or metric_values["psnr"] >= self.psnr)
            and (self.max_abs is None or metric_values["max_abs"] <= self.max_abs)
        )

    def describe(self, metric_values: Mapping[str, float]) -> tuple[str, bool]:
        """Return a line for the log, and whether the limits are met."""
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
    """Metrics between two output images.

    Parameters
    ----------
    psnr
        In dB, on values that are neither rounded nor clipped; infinite for equal images.
    max_abs, mean_abs
        Absolute differences, in units of the value range.
    nonfinite
        Number of NaN or infinite values in both images; where there are any, the other numbers are NaN.
    thresholds
        The `ImageThreshold` to which they are compared.
    """

    _THRESHOLD_CLASS = ImageThreshold

    def __init__(
        self, psnr: float, max_abs: float, mean_abs: float, nonfinite: float, thresholds: ImageThreshold | None = None
    ) -> None:
        super().__init__(thresholds=thresholds)
        self.psnr, self.max_abs, self.mean_abs, self.nonfinite = psnr, max_abs, mean_abs, nonfinite


class ImageCompareFunc(BaseCompareFunc):
    """Compares the output ``restored`` of two runners, for `Comparator.compare_accuracy`.

    Polygraphy's own PSNR uses the largest value of the first image as the peak, so that the same error scores worse on
    a dark image than on a bright one. Its `simple` function compares element by element with atol and rtol, and accepts
    NaN where both outputs have it.

    Parameters
    ----------
    value_range
        Values of black and white in the tensors: the manifest's `value_range`.
    psnr, max_abs
        Limits, see `ImageThreshold`.
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
        """Create the function with the tolerance of ``keygraph compare``: that of the lowest precision among them."""
        from ..pass_criteria import tolerance

        return cls(manifests[0].value_range, tolerance([manifest.precision for manifest in manifests]).psnr)

    def thresholds_for(self, output_name: str) -> ImageThreshold:
        """Return the limits; see `BaseCompareFunc.thresholds_for`."""
        return ImageThreshold(self._psnr, self._max_abs)

    def __call__(self, iter_result0: IterationResult, iter_result1: IterationResult) -> OrderedDict[str, Any]:
        """Compare one iteration; a result is falsy where the images or their shapes differ."""

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

        results: OrderedDict[str, Any] = run_comparison(
            match, False, iter_result0, iter_result1, find, func_name="Image"
        )
        return results

    def measure(self, candidate: np.ndarray[Any, Any], reference: np.ndarray[Any, Any]) -> ImageResult:
        """Compute the metrics between two arrays of the same shape."""
        nonfinite = sum(int((~np.isfinite(image)).sum()) for image in (candidate, reference))
        threshold = self.thresholds_for(IMAGE_OUTPUT)
        if nonfinite:
            return ImageResult(np.nan, np.nan, np.nan, nonfinite, thresholds=threshold)
        error = np.abs(candidate.astype(np.float64) - reference.astype(np.float64))
        psnr = psnr_of(float(np.mean(error**2)), self._value_range)
        return ImageResult(psnr, float(error.max()), float(error.mean()), 0, thresholds=threshold)


# For `polygraphy run --save-accuracy-results` and `polygraphy check accuracy`.
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
