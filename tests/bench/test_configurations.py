"""The configurations that a network can run in."""

from __future__ import annotations

from keygraph.bench.configurations import run_configurations


def test_every_form_of_a_network_is_a_configuration() -> None:
    found = run_configurations(["a.onnx", "b.plan", "c.ckpt"], "d.ckpt", "cpu", threads=2)
    assert [one.name for one in found] == [
        "PyTorch",
        "torch.compile",
        "ONNX Runtime, our operators a.onnx",
        "ONNX Runtime, functions a.onnx",
        "engine b.plan",
        "PyTorch c.ckpt",
    ]
    assert [one.compiled for one in found] == [False, True, False, False, False, False]
    assert [one.library for one in found][2:4] == ["auto", None]
    assert found[4].device is None  # an engine runs on its GPU, whatever the others run on
    assert run_configurations(["a.onnx"], None, None)[0].name == "ONNX Runtime, our operators"
