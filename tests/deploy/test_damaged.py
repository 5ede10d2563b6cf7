"""Files that are no packages, or not whole: refused before anything of them runs."""

import json
import threading
import zipfile
from importlib import import_module

import pytest
import torch
from torch import nn

import fastxai
from fastxai import ArgumentError, FeatureAblation, KernelShap, Lime, NoiseTunnel, Occlusion
from fastxai.attr import Ridge
from fastxai.deploy import Manifest, PackageError
from fastxai.ops import native, reference

from ..models import mlp

X = torch.randn(3, 7, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("package") / "package.pt2"
    fastxai.export(fastxai.Saliency(mlp()), X, path, format="torch", target=1)
    return path


def rewritten(path, to, change):
    """The package, uncompressed, with other entries: change(entries) of name and content."""
    with zipfile.ZipFile(path) as archive:
        entries = [(name, archive.read(name)) for name in archive.namelist()]
    with zipfile.ZipFile(to, "w") as archive:
        for name, content in change(entries):
            archive.writestr(name, content)
    return to


def with_manifest(path, to, change):
    def of(entries):
        for name, content in entries:
            is_it = name.endswith("fastxai.json")
            yield name, change(json.loads(content)) if is_it else content

    return rewritten(path, to, of)


def test_a_package_that_was_written_anew_is_one(path, tmp_path):
    same = with_manifest(path, tmp_path / "a.pt2", json.dumps)
    assert torch.equal(fastxai.load(same)(X).attributions, fastxai.load(path)(X).attributions)


def test_one_flipped_bit(path, tmp_path):
    """Anywhere: the file is refused, or what it says is what it said."""
    expected, whole = fastxai.load(path)(X), path.read_bytes()
    other, refused = tmp_path / "a.pt2", 0
    places = torch.linspace(0, len(whole) - 1, 80).long().tolist()
    with zipfile.ZipFile(path) as archive:  # and within each entry, its header and its data
        places += [entry.header_offset + d for entry in archive.infolist() for d in (1, 14, 70)]
    for i, place in enumerate(places):
        data = bytearray(whole)
        data[place] ^= 1 << i % 8
        other.write_bytes(data)
        try:
            assert torch.equal(fastxai.load(other)(X).attributions, expected.attributions)
        except PackageError:
            refused += 1
    assert refused > len(places) // 2


def said(**changes):
    return lambda manifest: json.dumps({**manifest, **changes})


def of_input(**changes):
    def change(manifest):
        manifest["arguments"][0].update(changes)
        return json.dumps(manifest)

    return change


def without(name):
    return lambda manifest: json.dumps({k: v for k, v in manifest.items() if k != name})


MANIFESTS = {
    "null": lambda _: "null",
    "a list": lambda _: "[]",
    "no JSON": lambda _: "{",
    "no text": lambda _: b"\xff",
    "nested deeply": lambda _: "[" * 100_000,
    "a name twice": lambda manifest: json.dumps(manifest)[:-1] + ', "device": "cpu"}',
    "another version": said(fastxai_package=1),
    "a version of true": said(fastxai_package=True),
    "a version with a fraction": said(fastxai_package=3.0),
    "no version": without("fastxai_package"),
    "no device": without("device"),
    "one more": said(more=1),
    "method of 3": said(method=3),
    "device of 5": said(device=5),
    "device of nowhere": said(device="nowhere"),
    "format": said(format="bogus"),
    "format of a process": said(format="cuda graph"),
    "format of a list": said(format=[]),
    "no version of torch": said(versions={}),
    "versions in a list": said(versions=[]),
    "torch abc": said(versions={"torch": "abc"}),
    "torch of a number": said(versions={"torch": 2.13}),
    "no machine": said(machine={}),
    "a machine of numbers": said(machine={"system": 1, "processor": 2, "extensions": 3}),
    "truth of a word": said(needs_library="false"),
    "a magnitude of 1": said(magnitude=1),
    "a tensor more": said(magnitude=True),
    "no arguments": said(arguments=[]),
    "arguments of words": said(arguments=["inputs"]),
    "no results": said(results=[]),
    "a negative size": of_input(shape=[-7]),
    "a size of true": of_input(shape=[True]),
    "a size of a word": of_input(shape=["7"]),
    "a size of NaN": of_input(shape=[float("nan")]),
    "an endless size": of_input(shape=[2**64]),
    "a shape of 7": of_input(shape=7),
    "dtype load": of_input(dtype="load"),
    "dtype of none": of_input(dtype="float33"),
    "another name": of_input(name="data"),
    "no name": of_input(name=None),
    "rows": of_input(rows=-1),
    "an option of 3": said(options={"target": 3}),
}


@pytest.mark.parametrize("change", MANIFESTS.values(), ids=MANIFESTS)
def test_odd_manifests(path, tmp_path, change, monkeypatch):
    other = with_manifest(path, tmp_path / "a.pt2", change)
    if change is not MANIFESTS["a tensor more"]:  # which is told by the program alone
        monkeypatch.setattr(torch.export, "load", lambda *_: pytest.fail("it ran"))
    with pytest.raises(PackageError, match=r"^.*a\.pt2: "):
        fastxai.load(other)


ARCHIVES = {
    "two manifests": lambda entries: [*entries, ("package/more/extra/fastxai.json", b"{}")],
    "no manifest": lambda entries: [e for e in entries if "fastxai.json" not in e[0]],
    "a way out": lambda entries: [*entries, ("package/../../x", b"")],
    "a root": lambda entries: [*entries, ("/package/x", b"")],
    "a drive": lambda entries: [*entries, ("package/c:x", b"")],
    "two folders": lambda entries: [*entries, ("other/x", b"")],
    "nothing": lambda entries: [],
    "no program": lambda entries: [e for e in entries if "fastxai.json" in e[0]],
}


@pytest.mark.parametrize("change", ARCHIVES.values(), ids=ARCHIVES)
def test_odd_archives(path, tmp_path, change):
    with pytest.raises(PackageError):
        fastxai.load(rewritten(path, tmp_path / "a.pt2", change))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_archives_that_readers_may_read_in_two_ways(path, tmp_path):
    other = tmp_path / "a.pt2"
    twice = lambda entries: [*entries, entries[0]]  # noqa: E731
    with pytest.raises(PackageError, match="two of its entries"):
        fastxai.load(rewritten(path, other, twice))
    for before, after in ((b"PK", b""), (b"", b"more"), (b"", b"\0" * 22)):
        other.write_bytes(before + path.read_bytes() + after)
        with pytest.raises(PackageError):
            fastxai.load(other)
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(other, "w") as packed:
        for name in archive.namelist():
            packed.writestr(name, archive.read(name), zipfile.ZIP_DEFLATED)
    with pytest.raises(PackageError, match="compressed"):
        fastxai.load(other)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": 5}, "path: expected a path"),
        ({"path": None}, "path: expected a path"),
        ({"path": "a", "sha256": 5}, "sha256: expected 64 hexadecimal digits"),
        ({"path": "a", "sha256": "abc"}, "sha256: expected 64 hexadecimal digits"),
    ],
)
def test_arguments_of_load(arguments, message):
    with pytest.raises(ArgumentError, match=f"^{message}"):
        fastxai.load(**arguments)


def test_what_was_hashed_is_what_is_loaded(path, tmp_path, monkeypatch):
    """Another file in its place by the time that it is loaded."""
    mine = tmp_path / "a.pt2"
    sha256 = fastxai.export(fastxai.Saliency(mlp()), X, mine, format="torch", target=1)
    other = mlp().requires_grad_(False)
    other[0].weight.zero_()
    fastxai.export(fastxai.Saliency(other), X, tmp_path / "b.pt2", format="torch", target=1)
    expected = fastxai.load(mine, sha256=sha256)(X).attributions
    of_file = Manifest.of_file

    def replaced(copy):
        mine.write_bytes((tmp_path / "b.pt2").read_bytes())
        return of_file(copy)

    monkeypatch.setattr(Manifest, "of_file", replaced)
    assert torch.equal(fastxai.load(mine, sha256=sha256)(X).attributions, expected)
    monkeypatch.undo()
    assert not torch.equal(fastxai.load(mine)(X).attributions, expected)


def test_two_exports_to_one_path(path, tmp_path, monkeypatch):
    """Neither writes into the other's draft, and each tells the digest of its own file."""
    program, turn = torch.export.load(path), threading.Barrier(2, timeout=60)
    save, drafts = torch.export.save, []
    manifest = Manifest.of_file(path)
    one_at_a_time = threading.Lock()

    def slow(program, file, **rest):
        turn.wait()  # both have chosen their drafts
        with one_at_a_time:
            drafts.append(file)
            save(program, file, **rest)
        turn.wait()

    monkeypatch.setattr(torch.export, "save", slow)
    module = import_module("fastxai.deploy.export")  # the package has a function of that name
    found = []
    threads = [
        threading.Thread(
            target=lambda: found.append(module._write(program, manifest, tmp_path / "a.pt2"))
        )
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2 and len(set(drafts)) == 2
    assert fastxai.load(tmp_path / "a.pt2").manifest == manifest
    assert list(tmp_path.iterdir()) == [tmp_path / "a.pt2"]


class Logarithm(nn.Module):
    """NaN where a number is negative, minus infinity where it is zero; its second output always."""

    def forward(self, x):
        first = x.log().sum(1)
        return torch.stack([first, torch.full_like(first, torch.nan)], 1)


METHODS = {
    "FeatureAblation": (FeatureAblation, {}),
    "Occlusion": (Occlusion, {"sliding_window_shapes": (2,)}),
    "KernelShap": (KernelShap, {"n_samples": 16, "seed": 0}),
    "Lime": (
        lambda model: Lime(model, Ridge(0.1)),
        {"n_samples": 16, "seed": 0},
    ),
    "NoiseTunnel": (
        lambda model: NoiseTunnel(FeatureAblation(model)),
        {"nt_samples": 2, "stdevs": 0.0, "seed": 0},
    ),
}


@pytest.mark.parametrize("name", METHODS)
def test_what_the_method_refuses_the_package_refuses(tmp_path, name):
    make, options = METHODS[name]
    if name == "NoiseTunnel" and native.backend() is reference:
        pytest.skip("noise is drawn by the compiled library")
    explainer, x = make(Logarithm().eval()), torch.rand(3, 4) + 0.5
    options = {"target": 0, "baselines": 1.0, **options}
    fastxai.export(explainer, x, tmp_path / "a.pt2", format="torch", **options)
    package = fastxai.load(tmp_path / "a.pt2")
    # The output that is not asked about is nobody's concern.
    expected = explainer.attribute(x, **options)
    torch.testing.assert_close(package(x).attributions, expected, rtol=1e-4, atol=1e-5)

    bad = x.clone()
    bad[1, 2] = -1
    with pytest.raises(ArgumentError, match=r"forward_func: .*NaN for row 1 of the inputs"):
        explainer.attribute(bad, **options)
    with pytest.raises(ArgumentError, match=r"forward_func: .*NaN for row 1 of the inputs"):
        package(bad)

    bad[1, 2] = 0
    with pytest.warns(UserWarning, match="forward_func: infinite outputs for rows 1 of"):
        found = package(bad).attributions
    assert not found[1].isfinite().all()
    torch.testing.assert_close(found[[0, 2]], expected[[0, 2]], rtol=1e-4, atol=1e-5)


def test_nan_in_a_perturbed_row_alone(tmp_path):
    explainer, x = FeatureAblation(Logarithm().eval()), torch.rand(3, 4) + 0.5
    baselines = torch.ones(1, 4)
    baselines[0, 3] = -1  # only where the last feature is left out
    options = {"target": 0, "baselines": baselines}
    fastxai.export(explainer, x, tmp_path / "a.pt2", format="torch", **options)
    package = fastxai.load(tmp_path / "a.pt2")
    for call in (package, lambda x: explainer.attribute(x, **options)):
        with pytest.raises(ArgumentError, match="NaN for row 0 of the inputs"):
            call(x)
