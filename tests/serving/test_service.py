"""Images through a running service: results, refusals, and what operators see."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import keygraph
import malformed_files
import numpy as np
import pytest
import pyvips
import tifffile
from keygraph.runtime.restore_files import restore_file
from keygraph.runtime.restorer import Restorer
from PIL import Image
from service_process import Service, error_of, until
from tiny_kgt import Tiny

MOST_PIXELS, MOST_BYTES = 100_000, 300_000
MEDIA = {"Content-Type": "application/octet-stream"}


@pytest.fixture(scope="module")
def service(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    limits = ("--max-pixels", str(MOST_PIXELS), "--max-bytes", f"{MOST_BYTES // 1000 * 1000 / 1024:.12g}K")
    with Service(tiny.onnx, tmp_path_factory.mktemp("service"), *limits) as running:
        yield running
        assert "Traceback" not in running.log.read_text()


@pytest.fixture(scope="module")
def restorer(tiny: Tiny) -> Iterator[Restorer]:
    with keygraph.load(tiny.onnx, threads=1) as loaded:
        yield loaded


def picture(
    seed: int, height: int = 40, width: int = 56, channels: int = 3, dtype: Any = np.uint8
) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, np.iinfo(dtype).max, (height, width, channels), dtype=dtype, endpoint=True)


def encoded(pixels: np.ndarray[Any, Any], suffix: str, **options: Any) -> bytes:
    image = pyvips.Image.new_from_array(pixels)
    if pixels.dtype == np.uint16:
        image = image.copy(interpretation="grey16" if image.bands == 1 else "rgb16")
    return bytes(image.write_to_buffer(suffix, **options))


def with_metadata(kind: str) -> bytes:
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "camera", 6
    profile = pyvips.Image.black(1, 1, bands=3).copy(interpretation="srgb")
    icc = bytes(profile.icc_export(output_profile="srgb").get("icc-profile-data"))
    buffer = io.BytesIO()
    Image.fromarray(picture(3)).save(buffer, kind, exif=exif, icc_profile=icc)
    return buffer.getvalue()


IMAGES = {
    "rgb.png": encoded(picture(0), ".png"),
    "gray16.png": encoded(picture(1, channels=1, dtype=np.uint16), ".png"),
    "alpha.webp": encoded(picture(2, channels=4), ".webp", lossless=True),
    "photo.jpg": with_metadata("JPEG"),
    "profile.png": with_metadata("PNG"),
    "deep.tif": encoded(picture(4, dtype=np.uint16), ".tif"),
    "pixel.png": encoded(np.zeros((1, 1), np.uint8), ".png"),
}

#: Name in requests -> suffix and media type.
FORMATS = {
    "png": (".png", "image/png"),
    "jpeg": (".jpg", "image/jpeg"),
    "tiff": (".tif", "image/tiff"),
    "webp": (".webp", "image/webp"),
}
OWN = {".png": "png", ".jpg": "jpeg", ".tif": "tiff", ".webp": "webp"}


def restored(restorer: Restorer, folder: Path, name: str, suffix: str, **options: Any) -> tuple[bytes, list[str]]:
    """What `keygraph restore` makes of an image."""
    source, target = folder / name, folder / f"result{suffix}"
    source.write_bytes(IMAGES[name])
    report = restore_file(restorer, source, target, **options)
    return target.read_bytes(), list(report.notices)


@pytest.mark.parametrize("name", IMAGES)
def test_a_result_is_that_of_the_command(service: Service, restorer: Restorer, tmp_path: Path, name: str) -> None:
    suffix, media = FORMATS[OWN[Path(name).suffix]]
    expected, notices = restored(restorer, tmp_path, name, suffix)
    response = service.restore(IMAGES[name])
    assert response.status_code == 200
    assert response.headers["Content-Type"] == media
    assert json.loads(response.headers["X-Keygraph-Notices"]) == notices
    assert float(response.headers["X-Keygraph-Seconds"]) >= 0
    assert response.content == expected


@pytest.mark.parametrize("wanted", FORMATS)
def test_formats_k_and_tiles(service: Service, restorer: Restorer, tmp_path: Path, wanted: str) -> None:
    suffix, media = FORMATS[wanted]
    expected, notices = restored(restorer, tmp_path, "gray16.png", suffix, k=1, tile=32)
    response = service.restore(IMAGES["gray16.png"], "image/png", k=1, tile=32, format=wanted)
    assert response.headers["Content-Type"] == media
    assert json.loads(response.headers["X-Keygraph-Notices"]) == notices
    assert response.content == expected
    if wanted in ("png", "tiff"):  # Which keep 16 bits.
        assert response.content != service.restore(IMAGES["gray16.png"], k=64, tile=32, format=wanted).content


def test_a_form_is_a_body(service: Service) -> None:
    of_form = service.client.post("/v1/restore", files={"image": ("../photo.jpg", IMAGES["photo.jpg"], "text/plain")})
    assert of_form.content == service.restore(IMAGES["photo.jpg"]).content
    assert of_form.headers["Content-Type"] == "image/jpeg"


def test_clients_at_the_same_time_get_their_own_pictures(service: Service, restorer: Restorer, tmp_path: Path) -> None:
    images = [encoded(picture(seed, 24 + seed, 40), ".png") for seed in range(24)]
    expected = []
    for number, image in enumerate(images):
        (tmp_path / f"{number}.png").write_bytes(image)
        restore_file(restorer, tmp_path / f"{number}.png", tmp_path / "result.png")
        expected.append((tmp_path / "result.png").read_bytes())
    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(service.restore, images))
    assert [answer.status_code for answer in answers] == [200] * 24
    assert [answer.content for answer in answers] == expected
    until(lambda: service.left() == [], "no file is left")


PICTURES = malformed_files.PICTURES
REFUSALS = (400, 413, 415, 422)
BAD_IMAGES = {
    **malformed_files.BAD_PICTURES,
    **{f"{kind} {name}": data for kind, name, data in malformed_files.damaged(PICTURES, malformed_files.LOST)},
    "gif": b"GIF89a" + bytes(100),
    "bmp": b"BM" + bytes(100),
    "heif": b"\0\0\0\x18ftypheic" + bytes(100),
}


def test_bad_images_are_refused(service: Service) -> None:
    wrong = {}
    for name, data in BAD_IMAGES.items():
        response = service.restore(data)
        if response.status_code not in REFUSALS:
            wrong[name] = response.status_code
        else:
            error_of(response)
    assert wrong == {}
    until(lambda: service.left() == [], "no file is left")


def test_damaged_images_are_refused_or_give_the_picture(service: Service) -> None:
    """What is cut may still hold all samples. Changed samples are not noticed in formats without checksums."""

    def decoded(response: httpx.Response) -> np.ndarray[Any, Any]:
        return np.asarray(pyvips.Image.new_from_buffer(response.content, "").numpy())

    whole = {name: decoded(service.restore(data)) for name, data in PICTURES.items()}
    for kind, name, data in malformed_files.damaged(PICTURES, malformed_files.CUT | malformed_files.CHANGED):
        response = service.restore(data)
        assert response.status_code in (200, *REFUSALS), (kind, name)
        if response.status_code != 200:
            error_of(response)
        elif kind in malformed_files.CUT:
            assert (decoded(response) == whole[name]).all(), (kind, name)


def animation(kind: str) -> bytes:
    buffer = io.BytesIO()
    frames = [Image.fromarray(picture(seed)) for seed in range(3)]
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "WebP"])
def test_an_animation_is_refused(service: Service, kind: str) -> None:
    response = service.restore(animation(kind))
    assert error_of(response) == (422, "animation")
    assert "3 pictures" in response.json()["error"]["message"]


def test_nan_is_refused(service: Service) -> None:
    pixels = np.full((16, 16, 3), np.nan, np.float32)
    assert error_of(service.restore(encoded(pixels, ".tif"))) == (422, "invalid_image")


def test_a_bomb_is_refused_before_it_is_decoded(service: Service) -> None:
    """100 million pixels in 100 kB."""
    service.restore(IMAGES["rgb.png"])
    before = service.metric("process_resident_memory_bytes")
    image = pyvips.Image.black(10_000, 10_000).write_to_buffer(".png", compression=9)
    assert len(image) < MOST_BYTES
    response = service.restore(image)
    assert error_of(response) == (413, "too_many_pixels")
    assert "10000 x 10000" in response.json()["error"]["message"]
    assert service.metric("process_resident_memory_bytes") - before < 30e6


def test_the_limit_on_bytes(service: Service) -> None:
    noise = encoded(picture(0, 300, 330), ".png", compression=0)
    most = service.client.get("/v1/model").json()["limits"]["bytes"]
    fitting = noise + bytes(most - len(noise))
    assert service.restore(fitting).status_code in (200, 422)
    assert error_of(service.restore(fitting + b"\0")) == (413, "too_many_bytes")
    form = service.client.post("/v1/restore", files={"image": fitting + b"\0"})
    assert error_of(form) == (413, "too_many_bytes")

    def chunks() -> Iterator[bytes]:  # Without a length.
        yield from (fitting, b"\0")

    streamed = service.client.post("/v1/restore", content=chunks(), headers={"Content-Type": "image/png"})
    assert error_of(streamed) == (413, "too_many_bytes")


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"k": 0}, "k is '0'"),
        ({"k": 65}, "k is 65; it must be a whole number from 1 to 64"),
        ({"k": "nan"}, "k is 'nan'; give a whole number from 1 on"),
        ({"k": ""}, "k is ''; give a whole number from 1 on"),
        ({"k": 10**30}, "k is"),
        ({"tile": 7}, "multiple of 8"),
        ({"tile": "all"}, "tile is 'all'; give pixels, or none or auto"),
        ({"tile": -8}, "tile is '-8'"),
        ({"format": "gif"}, "format is 'gif'; give one of png, jpeg, tiff, webp"),
        ({"K": 8}, "no parameter K; the parameters are k, tile, format"),
    ],
)
def test_bad_parameters(service: Service, parameters: dict[str, Any], said: str) -> None:
    response = service.restore(IMAGES["rgb.png"], **parameters)
    assert error_of(response) == (422, "invalid_parameter")
    assert said in response.json()["error"]["message"]


FORM = "multipart/form-data; boundary=x"
PART = b'--x\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n'
END = b"--x--\r\n"


@pytest.mark.parametrize(
    ("media", "body", "refusal"),
    [
        ("application/json", b"{}", (415, "unsupported_media_type")),
        ("text/plain", IMAGES["rgb.png"], (415, "unsupported_media_type")),
        ("application/x-www-form-urlencoded", b"image=1", (415, "unsupported_media_type")),
        ("image/png", b"", (400, "empty_image")),
        ("multipart/form-data", b"", (400, "malformed_form")),
        ("multipart/form-data; boundary=" + 300 * "x", b"", (400, "malformed_form")),
        (FORM, b"", (400, "malformed_form")),
        (FORM, b"no form", (400, "malformed_form")),
        (FORM, END, (400, "malformed_form")),
        (FORM, PART % (b"photo", b"") + END, (400, "malformed_form")),
        (FORM, PART % (b"image", b"") + END, (400, "empty_image")),
        (FORM, 2 * (PART % (b"image", IMAGES["rgb.png"])) + END, (400, "malformed_form")),
        (FORM, PART % (b"image", IMAGES["rgb.png"]), (400, "malformed_form")),
        (FORM, (PART % (b"image", IMAGES["rgb.png"]))[:200], (400, "malformed_form")),
        (FORM, b"--x\r\n" + 70_000 * b"h" + b": 1\r\n\r\n" + END, (400, "malformed_form")),
    ],
)
def test_bad_bodies(service: Service, media: str, body: bytes, refusal: tuple[int, str]) -> None:
    assert error_of(service.restore(body, media)) == refusal


def test_a_compressed_body_is_refused(service: Service) -> None:
    headers = {"Content-Type": "image/png", "Content-Encoding": "gzip"}
    response = service.client.post("/v1/restore", content=IMAGES["rgb.png"], headers=headers)
    assert error_of(response) == (415, "unsupported_encoding")


def test_other_addresses(service: Service) -> None:
    assert error_of(service.client.get("/absent")) == (404, "not_found")
    assert error_of(service.client.delete("/v1/restore")) == (405, "method_not_allowed")
    assert error_of(service.client.get("/v1/model", headers={"Host": "rebound.example"})) == (421, "unknown_host")
    assert service.client.get("/healthz").json() == {"status": "ok"}
    assert service.client.get("/readyz").json() == {"status": "ready"}


def test_pages_of_other_sites_get_nothing_restored(service: Service) -> None:
    def sent(**headers: str) -> httpx.Response:
        answer: httpx.Response = service.client.post(
            "/v1/restore", content=IMAGES["rgb.png"], headers={**MEDIA, **headers}
        )
        return answer

    assert error_of(sent(Origin="http://evil.example")) == (403, "foreign_origin")
    assert error_of(sent(Origin="null")) == (403, "foreign_origin")
    assert error_of(sent(**{"Sec-Fetch-Site": "cross-site"})) == (403, "foreign_origin")
    assert sent(Origin=service.url, **{"Sec-Fetch-Site": "same-origin"}).status_code == 200
    assert service.client.get("/", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 200  # A link.


def test_a_parameter_that_is_given_twice_is_refused(service: Service) -> None:
    response = service.client.post("/v1/restore?k=8&k=16", content=IMAGES["rgb.png"], headers=MEDIA)
    assert error_of(response) == (422, "invalid_parameter")
    assert response.json()["error"]["message"] == "k is given 2 times"


def test_samples_that_libvips_does_not_read(service: Service) -> None:
    """64-bit floating point, which `keygraph restore` reads."""
    values = np.random.default_rng(0).random((40, 56, 3))
    assert service.restore(tiff(values)).status_code == 200
    values[3, 5] = np.nan
    response = service.restore(tiff(values))
    assert error_of(response) == (422, "invalid_image")
    assert response.json()["error"]["message"].startswith("the image holds NaN")


def tiff(values: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, values, photometric="rgb")
    return file.getvalue()


def test_the_page_runs_scripts_of_the_service_only(service: Service) -> None:
    response = service.client.get("/")
    assert response.status_code == 200
    policy = response.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self';")
    assert "unsafe" not in policy
    assert response.headers["X-Content-Type-Options"] == "nosniff"


def test_the_model_is_described(service: Service, restorer: Restorer) -> None:
    described = service.client.get("/v1/model").json()
    assert described == {
        "name": "tiny.onnx",
        "architecture": "kgt",
        "task": restorer.manifest.task,
        "scale": 1,
        "in_channels": 3,
        "out_channels": 3,
        "k": {"default": 16, "smallest": 1, "largest": 64},
        "limits": {"bytes": described["limits"]["bytes"], "pixels": MOST_PIXELS},
        "provider": restorer.description,
        "needs_api_key": False,
    }
    assert 0.9 * MOST_BYTES < described["limits"]["bytes"] <= MOST_BYTES


def test_metrics_count(service: Service) -> None:
    restored = {"path": "/v1/restore", "method": "POST"}
    names: list[tuple[str, dict[str, str]]]
    names = [("keygraph_request_seconds_count", {}), ("keygraph_restored_pixels_total", {})]
    names += [("keygraph_requests_total", {**restored, "status": status}) for status in ("200", "422")]
    names += [("keygraph_refused_requests_total", {"code": "invalid_image"})]
    before = [service.metric(name, **labels) for name, labels in names]
    service.restore(IMAGES["rgb.png"])
    service.restore(IMAGES["rgb.png"][:300])
    counted = [1, 40 * 56, 1, 1, 1]
    until(
        lambda: (
            [service.metric(name, **labels) for name, labels in names]
            == [value + more for value, more in zip(before, counted, strict=True)]
        ),
        "both requests are counted",
    )
    until(lambda: service.metric("keygraph_accepted_requests") == 0, "none is in progress")
    assert service.metric("keygraph_running_requests") == 0


def test_a_thread_of_images_and_bad_ones_leaves_nothing(service: Service) -> None:
    """Whole, cut and refused images mixed, from several clients."""
    wrong: list[int] = []

    def work(number: int) -> None:
        for turn in range(6):
            bad = (number + turn) % 3 == 0
            image = IMAGES["rgb.png"][:200] if bad else IMAGES["rgb.png"]
            status = service.restore(image).status_code
            if status != (422 if bad else 200):
                wrong.append(status)

    clients = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert wrong == []
    until(lambda: service.left() == [] and service.metric("keygraph_accepted_requests") == 0, "all is given back")
