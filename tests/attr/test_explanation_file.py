"""What is saved comes back, and no file can do harm."""

import json
import os
import struct
import sys
from dataclasses import replace

import pytest
import torch

from fastxai import ArgumentError, Explanation

from ..explanations import EXPLAINED, NAMES, Page, explained

safetensors = pytest.importorskip("safetensors.torch")


@pytest.mark.parametrize("name", EXPLAINED)
def test_what_is_saved_comes_back_equal(name, tmp_path):
    found = EXPLAINED[name]()
    found.save(tmp_path / "found")
    back = Explanation.load(str(tmp_path / "found"))
    assert (back == found) is True and (back != found) is False
    assert os.listdir(tmp_path) == ["found"]
    assert type(back.values) is type(found.values) and repr(back) == repr(found)


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "found"
    first, second = explained(), explained(rows=2)
    first.save(path)

    def fail(*of):
        raise OSError("no space")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="no space"):
            second.save(path)
    assert os.listdir(tmp_path) == ["found"] and Explanation.load(path) == first
    second.save(path)
    assert Explanation.load(path) == second
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask
    with pytest.raises(FileNotFoundError):
        first.save(tmp_path / "nowhere" / "found")
    with pytest.raises(FileNotFoundError):
        Explanation.load(tmp_path / "none")
    with pytest.raises(OSError):
        Explanation.load(tmp_path)


def test_what_is_loaded_stays_when_the_file_goes(tmp_path):
    found = explained()
    found.save(tmp_path / "found")
    back = Explanation.load(tmp_path / "found")
    size = (tmp_path / "found").stat().st_size
    (tmp_path / "found").write_bytes(b"\xff" * size)
    assert back == found


def test_views_are_saved_as_what_they_show(tmp_path):
    found = explained(rows=50)
    found[10:12].save(tmp_path / "part")
    assert Explanation.load(tmp_path / "part") == found[10:12]
    assert (tmp_path / "part").stat().st_size < 4000


@pytest.mark.parametrize(
    "change, message",
    [
        ({"values": torch.zeros(3, 2, 4, dtype=torch.complex64)}, "values: expected real numbers"),
        ({"target": object()}, "target: expected tensors, tuples or lists of them, or None"),
        ({"values": {"a": torch.zeros(3)}}, "values: expected tensors"),
        ({"seconds": float("nan")}, "explanation: expected another seconds, got nan"),
        ({"samples": torch.zeros(3)}, "explanation: expected another samples"),
        ({"standard_errors": torch.zeros(3)}, "standard_errors in the values' form"),
        ({"outputs": torch.zeros(2, 2)}, "explanation: expected"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_what_cannot_be_saved(change, message, tmp_path):
    with pytest.raises(ArgumentError, match=message):
        replace(explained(), **change).save(tmp_path / "found")
    assert not os.listdir(tmp_path)


def test_saving_needs_safetensors(monkeypatch, tmp_path):
    found = explained()
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(ImportError, match=r"Explanation\.save needs safetensors.*fastxai\[save\]"):
        found.save(tmp_path / "found")
    with pytest.raises(ImportError, match=r"Explanation\.load needs safetensors"):
        Explanation.load(tmp_path / "found")


def saved(tmp_path, name="outputs"):
    """A file, as what it says in its header and the bytes behind."""
    EXPLAINED[name]().save(tmp_path / "found")
    content = (tmp_path / "found").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def written(path, header, tensors):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + tensors)
    return path


def refused(path, message="expected a file that Explanation.save of this version wrote"):
    with pytest.raises(ArgumentError, match=message) as caught:
        Explanation.load(path)
    assert str(path) in str(caught.value)


def test_files_of_something_else_are_refused(tmp_path):
    _, tensors = saved(tmp_path)
    content = (tmp_path / "found").read_bytes()
    path = tmp_path / "other"
    others = [
        *(b"", b"\0", b"PK\x03\x04" + content, content[1:], b"\xff" * 200, content + b"\0"),
        struct.pack("<Q", 2**63) + content[8:],  # a header larger than everything
        struct.pack("<Q", 99_000_000) + content[8:],
        struct.pack("<Q", 0) + content[8:],
        *(content[:n] for n in range(0, len(content), 97)),
    ]
    for other in others:
        path.write_bytes(other)
        refused(path)
    refused(written(path, b"[" * 100_000, tensors))
    torch.save({"values": torch.zeros(3)}, path)
    refused(path)
    safetensors.save_file({"values": torch.zeros(3)}, path)
    refused(path, "fastxai_explanation in its header")


def test_every_damaged_byte_of_the_header_is_refused_or_harmless(tmp_path):
    saved(tmp_path)
    content = bytearray((tmp_path / "found").read_bytes())
    (length,) = struct.unpack("<Q", content[:8])
    path, loaded = tmp_path / "other", 0
    for place in range(0, 8 + length, 3):
        damaged = content.copy()
        damaged[place] ^= 0x11
        path.write_bytes(damaged)
        try:
            found = Explanation.load(path)
        except ArgumentError:
            continue
        loaded += 1  # another name or number
        assert repr(found) and Page(found._repr_html_()).text and len(found) == 3
    assert loaded < length / 12


SAID = [
    ({"version": 2}, "version 1, got 2"),
    ({"version": True}, "version 1"),
    ({"version": 1.0}, "version 1"),
    ({"more": 1}, "a header of"),
    ({"method": 3}, "another method"),
    ({"method": None}, "another method"),
    ({"seconds": -1}, "another seconds"),
    ({"seconds": "1"}, "another seconds"),
    ({"seconds": True}, "another seconds"),
    ({"seconds": 10**400}, "seconds|float"),
    ({"tier": []}, "another tier"),
    ({"feature_names": "abcd"}, "another feature_names"),
    ({"feature_names": [1, 2]}, "another feature_names"),
    ({"output_names": {"a": 1}}, "another output_names"),
    ({"is_row": 1}, "another is_row"),
    ({"is_row": True}, "expected"),
    ({"forms": []}, "forms of"),
]
FORMS = [
    ({"values": None}, "another values|no other tensors"),
    ({"values": "outputs"}, "the form of values"),
    ({"values": {"tuple": []}}, "no other tensors"),
    ({"values": {"dict": []}}, "the form of values"),
    ({"values": {"tuple": ["tensor"]}}, "a tensor values.0"),
    ({"data": {"is": "words"}}, "the form of data"),
    ({"outputs": None}, "no other tensors"),
    ({"samples": None}, "no other tensors"),
    ({"target": "tensor"}, "a tensor target"),
    ({"target": {"is": 1.5}}, "the form of target"),
    ({"target": {"is": 2**70}}, "the form of target"),
    ({"target": {"is": [1]}}, "the form of target"),
    ({"target": {"list": [{"list": [{"list": [{"list": [{"list": []}]}]}]}]}}, "form of target"),
    ({"target": {"tuple": [], "list": []}}, "the form of target"),
    ({"more": None}, "forms of"),
]


@pytest.mark.parametrize("change, message", SAID + FORMS, ids=str)
def test_what_the_header_says_is_checked(change, message, tmp_path):
    header, tensors = saved(tmp_path)
    said = json.loads(header["__metadata__"]["fastxai_explanation"])
    (said["forms"] if (change, message) in FORMS else said).update(change)
    header["__metadata__"]["fastxai_explanation"] = json.dumps(said)
    refused(written(tmp_path / "found", header, tensors), message)


@pytest.mark.parametrize("key", ["method", "forms", "is_row", "version"])
def test_nothing_may_be_missing_or_there_twice(key, tmp_path):
    header, tensors = saved(tmp_path)
    text = header["__metadata__"]["fastxai_explanation"]
    said = json.loads(text)
    twice = text[:-1] + f', "{key}": {json.dumps(said[key])}}}'
    del said[key]
    for changed, message in ((json.dumps(said), "expected"), (twice, "each name once")):
        header["__metadata__"]["fastxai_explanation"] = changed
        refused(written(tmp_path / "found", header, tensors), message)


@pytest.mark.parametrize(
    "name, tensor",
    [
        ("values", torch.zeros(4, 2, 4)),
        ("values", torch.zeros(())),
        ("outputs", torch.zeros(5)),
        ("outputs", torch.zeros(())),
        ("baseline_outputs", torch.zeros(3, 3)),
        ("baseline_outputs", torch.zeros(3)),
        ("convergence_delta", torch.zeros(2, 2)),
        ("convergence_delta", torch.zeros(3, 2, dtype=torch.bool)),
        ("standard_errors", torch.zeros(3, 2, 5)),
        ("samples", torch.zeros(3)),
        ("samples", torch.zeros(3, 1, dtype=torch.int64)),
        ("samples", torch.zeros(7, dtype=torch.int64)),
        ("players", torch.zeros((), dtype=torch.int64)),
        ("reached", torch.zeros(3, dtype=torch.int64)),
        ("reached", torch.zeros(4)),
        ("data", torch.zeros(())),
        ("values", torch.zeros(3, 2, 4).to(torch.float8_e4m3fn)),
        ("values", torch.zeros(3, 2, 4, dtype=torch.uint16)),
    ],
    ids=lambda v: f"{tuple(v.shape)} {v.dtype}" if isinstance(v, torch.Tensor) else v,
)
def test_tensors_that_do_not_fit_are_refused(name, tensor, tmp_path):
    header, _ = saved(tmp_path)
    tensors = safetensors.load_file(tmp_path / "found")
    tensors = {key: value.clone() for key, value in tensors.items()}
    safetensors.save_file({**tensors, name: tensor}, tmp_path / "bad", header["__metadata__"])
    refused(tmp_path / "bad")
    tensors["another"] = torch.zeros(1)
    safetensors.save_file(tensors, tmp_path / "bad", header["__metadata__"])
    refused(tmp_path / "bad", "no other tensors")


def test_torch_load_refuses_what_it_does_not_know(tmp_path):
    torch.save(explained(), tmp_path / "found")
    with pytest.raises(Exception, match="Explanation"):
        torch.load(tmp_path / "found", weights_only=True)
    assert torch.load(tmp_path / "found", weights_only=False).feature_names == tuple(NAMES)
