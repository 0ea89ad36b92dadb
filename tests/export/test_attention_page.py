"""The page of what an export found: complete, without requests, and readable on a phone."""

from __future__ import annotations

import html
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import own_modules
import pytest
import torch
from browser import chromium, prefer, resize
from keygraph.cli import main
from keygraph.errors import InputError
from keygraph.export import export_module
from keygraph.export.attention_page import write_page
from keygraph.export.attention_page.page import rows
from keygraph.manifest import Attention, Manifest

pytestmark = pytest.mark.usefixtures("one_thread")

ATTENTIONS = (
    *(Attention(f"layers.{i}.attn", "fused", "", 64, 256, 6, 30) for i in range(4)),
    Attention("layers.4.attn", "packed", "the bias is <inside> the selection", 64, 256, 6, 30),
    Attention("layers.5.attn", "fused", "", 16, 64, 1, 8, keeps_ties=True),
    Attention("layers.6." + "a_long_name_" * 8, "unchanged", "it is faster as it is: 8 nodes of 256 channels", None, 8),
    Attention("", "by hand", "", 5),
)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    path = tmp_path_factory.mktemp("page") / "own.onnx"
    torch.manual_seed(0)
    return path, export_module(own_modules.TopKAttention(biased=True), path, shape=(1, 32, 32))


def words(page: str) -> str:
    return " ".join(html.unescape(re.sub(r"<style>.*?</style>|<[^>]*>", " ", page, flags=re.DOTALL)).split())


def test_inspect_lists_the_attentions_and_writes_the_page(
    exported: tuple[Path, Manifest], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = exported[0]
    assert main(["inspect", str(path), "--report", str(tmp_path / "found.html")]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "attentions the model: packed, k = 5 of 16, 1 head of 8; the bias is inside the selection" in printed
    assert re.search(r"library: against PyTorch in 9 cases, worst \S+ dB \(error at most \S+ times what round", printed)
    page = words((tmp_path / "found.html").read_text(encoding="utf-8"))
    assert "2 attentions in own.onnx 3 → 3 channels, scale 1, only 1 x 32 x 32, fp32" in page
    assert "2 packed computed by the operator, on the network's own selection" in page
    assert "2 k = 5 of 16 nodes 1 head of 8 channels the bias is inside the selection" in page
    assert re.search(r"functions 9 \d+\.\d \d\.\d\d library 9 \d+\.\d \d\.\d\d Of all images", page)


def test_attentions_alike_share_a_row() -> None:
    found = [(row.first, row.count, row.modules[-1], row.share) for row in rows(ATTENTIONS)]
    assert found[:3] == [(1, 4, "layers.3.attn", 0.25), (5, 1, "layers.4.attn", 0.25), (6, 1, "layers.5.attn", 0.25)]
    assert found[-1] == (8, 1, "the network itself", None)


def test_a_page_is_refused_where_there_is_nothing_to_show(exported: tuple[Path, Manifest], tmp_path: Path) -> None:
    manifest = replace(exported[1], attentions=())
    with pytest.raises(InputError, match=r"own\.onnx lists no attentions"):
        write_page(tmp_path / "found.html", manifest, "own.onnx")
    with pytest.raises(InputError, match=r"found\.txt is written as a web page"):
        write_page(tmp_path / "found.txt", exported[1], "own.onnx")
    (tmp_path / "photo.png").write_bytes(b"\x89PNG")
    assert main(["inspect", str(exported[0]), "--report", str(exported[0])]) == 2
    assert not (tmp_path / "found.html").exists()


@pytest.mark.parametrize("width", [390, 1360])
def test_it_fits_and_asks_for_nothing(exported: tuple[Path, Manifest], tmp_path: Path, width: int) -> None:
    page = tmp_path / "found.html"
    write_page(page, replace(exported[1], attentions=ATTENTIONS), "own.onnx")
    assert "<inside>" not in page.read_text(encoding="utf-8")
    with chromium(tmp_path / "profile") as browser:
        resize(browser, width, 900)
        colours = set()
        for scheme in ("light", "dark"):
            prefer(browser, scheme)
            browser.get(page.as_uri())
            size: Any = browser.execute_script("return document.documentElement.scrollWidth")
            assert size == width
            colours.add(browser.execute_script("return getComputedStyle(document.body).backgroundColor"))
        assert len(colours) == 2
        assert len(browser.find_elements("css selector", ".flow li")) == 5
        assert "the bias is <inside> the selection" in browser.find_element("tag name", "body").text
        assert browser.get_log("browser") == []
