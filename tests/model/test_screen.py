"""Real payloads: each creates a marker file when it runs. Where torch itself would run it, the test shows that first,
so that no test passes because its payload was broken."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import pickle
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch._export.serde import schema

from compressor.errors import ModelError, UnsafeFileError
from compressor.model import screen
from compressor.model.archive import Archive, open_archive
from compressor.model.describe import describe
from compressor.model.load import load_model
from compressor.model.quiet import quiet_export

ANEW = "load it where it was made and save it anew with torch.export.save"
SHAPES = ((2, 8, 8),)
FIELDS = {f.name for c in vars(schema).values() if dataclasses.is_dataclass(c) for f in dataclasses.fields(c)} | {None}


def runs(marker: Path, action: Callable[[], object]) -> bool:
    """Whether an action runs the payload; what it raises after that does not matter."""
    with quiet_export(), contextlib.suppress(Exception):
        action()
    ran = marker.exists()
    if marker.is_dir():
        marker.rmdir()
    marker.unlink(missing_ok=True)
    return ran


def refuse(path: Path, marker: Path, message: str) -> None:
    """Loading and describing raise the message, and the payload did not run."""
    for read in (load_model, describe):
        with pytest.raises(UnsafeFileError) as caught:
            read(path, input_shapes=SHAPES)
        assert str(caught.value) == f"{path}: {message}"
    assert not marker.exists()


def saved_bytes(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


@pytest.fixture
def graph_changed(saved, tmp_path, rewrite):
    """A function that makes an exported program whose graph was changed."""

    def make(change: Callable[[dict], None]) -> Path:
        def edit(name: str, content: bytes) -> bytes:
            if name != "models/model.json":
                return content
            graph = json.loads(content)
            change(graph)
            return json.dumps(graph).encode()

        return rewrite(saved["net.pt2"], tmp_path / "evil.pt2", edit)

    return make


def in_graph(what: str) -> str:
    return f"holds {what} in 'models/model.json', which torch does not write there and which could run code; {ANEW}"


def test_rewritten_archives_still_load(saved, graph_changed):
    """The tests below change one thing each; this one changes nothing, and loads."""
    model = load_model(graph_changed(lambda graph: None))
    torch.testing.assert_close(model.module(saved.x), saved.y)


# --- exported programs ---------------------------------------------------------------------------------------------


def test_pickle_in_sample_inputs(saved, tmp_path, rewrite, payload, marker):
    evil = saved_bytes(((saved.x, payload), {}))
    path = rewrite(
        saved["net.pt2"], tmp_path / "evil.pt2", lambda n, c: evil if n == "data/sample_inputs/model.pt" else c
    )
    assert runs(marker, lambda: torch.export.load(path))
    refuse(
        path,
        marker,
        "its part 'data/sample_inputs/model.pt' is a pickle of more than tensors: loading it could run code; " + ANEW,
    )


def test_weight_that_is_a_pickle(saved, tmp_path, rewrite, payload, marker):
    def edit(name: str, content: bytes) -> bytes:
        if name == "data/weights/model_weights_config.json":
            table = json.loads(content)
            table["config"]["head.bias"].update(use_pickle=True, path_name="weight_99")
            return json.dumps(table).encode()
        return content

    path = rewrite(saved["net.pt2"], tmp_path / "evil.pt2", edit, {"data/weights/weight_99": saved_bytes(payload)})
    assert runs(marker, lambda: torch.export.load(path))
    refuse(
        path,
        marker,
        "holds the pickled tensor 'head.bias' (of a tensor subclass, such as a quantized weight) in "
        "'data/weights/model_weights_config.json', which torch does not write there and which could run code; " + ANEW,
    )


def test_legacy_weights_pickle(saved, tmp_path, rewrite, payload, marker):
    extra = {"data/weights/model.pt": saved_bytes({"head.bias": payload})}
    path = rewrite(saved["net.pt2"], tmp_path / "evil.pt2", lambda n, c: c, extra)
    assert runs(marker, lambda: torch.export.load(path))
    refuse(
        path,
        marker,
        "its part 'data/weights/model.pt' is a pickle of more than tensors: loading it could run code; " + ANEW,
    )


def test_opaque_constant_pickle(saved, tmp_path, rewrite, payload, marker):
    table = {"config": {"c": {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}}}

    def edit(name: str, content: bytes) -> bytes:
        return json.dumps(table).encode() if name.endswith("constants_config.json") else content

    extra = {"data/constants/opaque_obj_0": pickle.dumps(payload)}
    path = rewrite(saved["net.pt2"], tmp_path / "evil.pt2", edit, extra)
    assert runs(marker, lambda: torch.export.load(path))
    refuse(path, marker, f"holds a custom object ('data/constants/opaque_obj_0'); {ANEW}")


def python_touching(marker: Path) -> str:
    return f"__import__('pathlib').Path({str(marker)!r}).touch()"


def test_python_in_a_symbolic_size(graph_changed, marker):
    code = python_touching(marker)

    def change(graph: dict) -> None:
        size = graph["graph_module"]["graph"]["tensor_values"]["x"]["sizes"][0]
        size["as_expr"]["expr_str"] = code

    path = graph_changed(change)
    assert runs(marker, lambda: torch.export.load(path))
    refuse(path, marker, in_graph(f"the expression {code[:80]!r}"))


def test_python_in_the_name_of_an_input(graph_changed, marker):
    """torch writes names into source that it executes."""
    name = f"x={python_touching(marker)}"

    def change(graph: dict) -> None:
        text = json.dumps(graph["graph_module"]["graph"]).replace('"x"', json.dumps(name))
        graph["graph_module"]["graph"] = json.loads(text)
        graph["graph_module"]["signature"] = json.loads(
            json.dumps(graph["graph_module"]["signature"]).replace('"x"', json.dumps(name))
        )

    path = graph_changed(change)
    assert runs(marker, lambda: torch.export.load(path))
    refuse(path, marker, in_graph(f"the name {name[:60]!r}"))


def test_python_in_the_argument_names(graph_changed, marker):
    name = f"x={python_touching(marker)}"

    def change(graph: dict) -> None:
        graph["graph_module"]["module_call_graph"][0]["signature"]["forward_arg_names"] = [name]

    path = graph_changed(change)
    with quiet_export(), pytest.raises(SyntaxError):  # torch compiles it; this one is merely no valid Python there
        torch.export.load(path).module()
    refuse(path, marker, in_graph(f"the name {name[:60]!r}"))


def test_python_in_guards_is_never_used(saved, graph_changed, marker):
    def change(graph: dict) -> None:
        graph["guards_code"] = [python_touching(marker) + " is None"]

    path = graph_changed(change)
    assert runs(marker, lambda: torch.export.load(path).module()(saved.x))
    model = load_model(path)
    torch.testing.assert_close(model.module(saved.x), saved.y)
    torch.export.export(model.module, model.example_inputs)
    assert not marker.exists()


def test_a_function_of_torch_for_an_operator(graph_changed, marker):
    """torch resolves the name, and only its verifier of graphs then keeps the function from being called."""

    def change(graph: dict) -> None:
        for node in graph["graph_module"]["graph"]["nodes"]:
            if node["target"] == "torch.ops.aten.relu.default":
                argument = {"as_string": f"touch {marker}"}
                node.update(target="torch.os.system", inputs=[{"name": "", "arg": argument, "kind": 1}])

    refuse(graph_changed(change), marker, in_graph("the operator 'torch.os.system'"))


def test_an_operator_that_maps_a_file(saved, graph_changed, marker, tmp_path):
    """aten::from_file creates the file that it is to read when the mapping is shared."""

    def change(graph: dict) -> None:
        node = next(n for n in graph["graph_module"]["graph"]["nodes"] if n["target"] == "torch.ops.aten.relu.default")
        named = {"filename": {"as_string": str(marker)}, "shared": {"as_bool": True}, "size": {"as_int": 4}}
        inputs = [{"name": name, "arg": arg, "kind": 1} for name, arg in named.items()]
        node.update(target="torch.ops.aten.from_file.default", inputs=inputs)

    path = graph_changed(change)
    assert runs(marker, lambda: torch.export.load(path).module()(saved.x))
    refuse(path, marker, in_graph("the operator 'torch.ops.aten.from_file.default'"))


def test_a_structure_that_imports_a_module(graph_changed, marker, tmp_path, monkeypatch):
    (tmp_path / "evil_module_of_the_test.py").write_text(python_touching(marker) + "\nclass E(dict): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    enum = {"__enum__": True, "fqn": "evil_module_of_the_test:E", "name": "x"}

    def change(graph: dict) -> None:
        signature = graph["graph_module"]["module_call_graph"][0]["signature"]
        leaf = {"type": None, "context": None, "children_spec": []}
        node = {"type": "builtins.dict", "context": json.dumps([enum]), "children_spec": [leaf]}
        signature["out_spec"] = json.dumps([1, node])

    path = graph_changed(change)
    assert runs(marker, lambda: torch.export.load(path))
    sys.modules.pop("evil_module_of_the_test", None)
    refuse(path, marker, in_graph(f"the structure {json.dumps([enum])[:60]!r}"))


def roles(value: object, at: tuple[object, ...] = ()) -> Iterator[tuple[tuple[object, ...], str]]:
    """Every string in JSON with the path to it, keys of mappings included (their path ends in ``None``)."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (*at, key, None), key
            yield from roles(inner, (*at, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from roles(inner, (*at, index))
    elif isinstance(value, str):
        yield at, value


def put(value: object, at: tuple[object, ...], text: str) -> object:
    """A copy of JSON with another string in one place."""
    if not at:
        return text
    if isinstance(value, dict):
        if at[1:] == (None,):
            return {text if key == at[0] else key: inner for key, inner in value.items()}
        return value | {at[0]: put(value[at[0]], at[1:], text)}
    return [put(inner, at[1:], text) if index == at[0] else inner for index, inner in enumerate(value)]


def test_python_in_any_string_of_the_graph_does_not_run(saved, tmp_path, rewrite, marker):
    """Not only in the places that are known to be evaluated: one string of each role, three ways to break out."""
    with zipfile.ZipFile(saved["net.pt2"]) as archive:
        graph = json.loads(archive.read("net/models/model.json"))
    places: dict[tuple[object, ...], tuple[object, ...]] = {}
    for at, _ in roles(graph):
        # The same field of another node, weight or symbol is the same role.
        places[tuple("*" if isinstance(step, int) or step not in FIELDS else step for step in at)] = at
    assert len(places) > 60
    code = python_touching(marker)
    for at in places.values():
        for text in (code, f"x={code}", f'")+{code}+("'):
            content = json.dumps(put(graph, at, text)).encode()
            path = rewrite(
                saved["net.pt2"], tmp_path / "evil.pt2", lambda n, c, g=content: g if n == "models/model.json" else c
            )
            with contextlib.suppress(ModelError):
                model = load_model(path)
                model.module(saved.x)
                torch.export.export(model.module, model.example_inputs)
            assert not marker.exists(), at


def test_native_code(saved, tmp_path, rewrite, marker):
    extra = {"data/aotinductor/model/model.so": b"\x7fELF"}
    path = rewrite(saved["net.pt2"], tmp_path / "evil.pt2", lambda n, c: c, extra)
    refuse(path, marker, f"holds native code ('data/aotinductor/model/model.so'); {ANEW}, not compiled")


def test_a_member_that_has_no_business_there(saved, tmp_path, rewrite, marker):
    path = rewrite(saved["net.pt2"], tmp_path / "evil.pt2", lambda n, c: c, {"models/other.json": b"{}"})
    refuse(path, marker, f"holds the unexpected member 'models/other.json'; {ANEW}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: g.pop("graph_module"), "a ExportedProgram has no 'graph_module'"),
        (lambda g: g.update(opset_version=[]), "ExportedProgram.opset_version is '[]', of the wrong type"),
        (lambda g: g["schema_version"].update(major="8"), "SchemaVersion.major is '8', of the wrong type"),
        (
            lambda g: g["graph_module"]["graph"]["tensor_values"]["x"]["sizes"][0]["as_expr"].update(expr_str=["x"]),
            "SymExpr.expr_str is \"['x']\", of the wrong type",
        ),
        (lambda g: g["schema_version"].update(major=1 << 70), f"SchemaVersion.major is {1 << 70}"),
    ],
)
def test_a_graph_against_the_schema(graph_changed, change, message):
    path = graph_changed(change)
    with pytest.raises(ModelError) as caught:
        load_model(path)
    assert str(caught.value) == f"{path}: its part 'models/model.json' is not what this torch reads: {message}"


def test_weights_that_are_said_to_be_huge(saved, tmp_path, rewrite):
    """torch would fill memory with zeros of the shape in the table when there are no data."""

    def edit(name: str, content: bytes) -> bytes:
        if name == "data/weights/model_weights_config.json":
            table = json.loads(content)
            table["config"]["head.bias"]["tensor_meta"]["sizes"] = [{"as_int": 1 << 40}]
            table["config"]["head.bias"]["path_name"] = "weight_99"
            return json.dumps(table).encode()
        return content

    path = rewrite(saved["net.pt2"], tmp_path / "evil.pt2", edit, {"data/weights/weight_99": b""})
    with pytest.raises(ModelError, match=r"'data/weights/weight_99', the data of 'head\.bias', is empty$"):
        load_model(path)


def test_an_archive_that_reads_in_two_ways(saved):
    archive = open_archive(saved["net.pt2"])
    screen.Records(archive)
    other = Archive(archive.path, archive.sizes | {"models/other.json": 3}, archive.top)
    with pytest.raises(UnsafeFileError) as caught:
        screen.Records(other)
    assert "whose table of contents can be read in two ways" in str(caught.value)


# --- TorchScript ---------------------------------------------------------------------------------------------------


def scripted_with(saved, tmp_path, rewrite, line: str) -> Path:
    """The scripted network with a line of TorchScript put in front of its forward()."""

    def edit(name: str, content: bytes) -> bytes:
        if name != "code/__torch__/net_of_the_model_tests.py":
            return content
        start = content.index(b"Tensor:\n", content.index(b"def forward")) + len(b"Tensor:\n")
        return content[:start] + f"    {line}\n".encode() + content[start:]

    return rewrite(saved["scripted.pt"], tmp_path / "evil.pt", edit)


def run_script(path: Path, x: torch.Tensor) -> None:
    torch.jit.load(str(path))(x)


FILE_OPERATOR = "which reads or writes files when the model runs; remove it from the model and save it anew"


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("torch.save(x, {0!r})", "save"),
        ("ops.aten.save(x, {0!r})", "save"),
        ("x = torch.add(x, torch.sum(torch.from_file({0!r}, True, 4)))", "from_file"),
        ("getattr(torch, 'save')(x, {0!r})", "save"),
    ],
)
def test_torchscript_that_touches_files(saved, tmp_path, rewrite, marker, line, name):
    path = scripted_with(saved, tmp_path, rewrite, line.format(str(marker)))
    assert runs(marker, lambda: run_script(path, saved.x))
    refuse(path, marker, f"uses the operator '{name}', {FILE_OPERATOR}")


def test_torchscript_that_hides_a_name(saved, tmp_path, rewrite, marker):
    path = scripted_with(saved, tmp_path, rewrite, f"_g = getattr; _g(torch, 'save')(x, {str(marker)!r})")
    member = "code/__torch__/net_of_the_model_tests.py"
    refuse(path, marker, f"hides names behind getattr ('{member}')")


def test_torchscript_that_runs_while_loading(tmp_path, marker):
    class Evil(torch.nn.Module):
        def __init__(self, path: str) -> None:
            super().__init__()
            self.path = path

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

        @torch.jit.export
        def __getstate__(self):
            return (self.path, self.training)

        @torch.jit.export
        def __setstate__(self, state: tuple[str, bool]):
            self.path = state[0]
            self.training = state[1]
            torch.ops.aten.save(torch.zeros(1), state[0])

    path = tmp_path / "evil.pt"
    with quiet_export():
        torch.jit.script(Evil(str(marker))).save(path)
    assert runs(marker, lambda: torch.jit.load(str(path)))
    with pytest.raises(UnsafeFileError):
        load_model(path, input_shapes=SHAPES)
    assert not marker.exists()


def test_setstate_itself_is_refused(saved, tmp_path, rewrite):
    def edit(name: str, content: bytes) -> bytes:
        if name == "code/__torch__/net_of_the_model_tests.py":
            return (
                content + b"  def __setstate__(self: __torch__.net_of_the_model_tests.Net, s: int) -> NoneType:\n"
                b"    return None\n"
            )
        return content

    path = rewrite(saved["scripted.pt"], tmp_path / "evil.pt", edit)
    with pytest.raises(UnsafeFileError) as caught:
        load_model(path, input_shapes=SHAPES)
    assert str(caught.value) == (
        f"{path}: runs code of its own while it is loaded ('code/__torch__/net_of_the_model_tests.py': __setstate__)"
    )


def test_torchscript_with_a_native_class(saved, tmp_path, rewrite):
    line = "_p = torch.eq(1, 1)\n    p: Optional[__torch__.torch.classes.quantized.LinearPackedParamsBase] = None"
    path = scripted_with(saved, tmp_path, rewrite, line)
    with pytest.raises(UnsafeFileError, match=r"holds an object of the native class '__torch__\.torch\.classes"):
        load_model(path, input_shapes=SHAPES)


def test_torchscript_operators_of_unknown_namespaces(saved, tmp_path, rewrite, marker):
    path = scripted_with(saved, tmp_path, rewrite, "_h = ops.profiler._record_function_enter('x', None)")
    refuse(path, marker, "uses operators of 'profiler', not known to be harmless")


@pytest.mark.parametrize("kind", ["aten::save", "prim::rpc_sync", "prim::PythonOp", "mylib::op"])
def test_the_compiled_graph_is_looked_at_too(kind):
    with pytest.raises(UnsafeFileError):
        screen.check_script_graph(Path("m.pt"), {"aten::relu", kind})
    screen.check_script_graph(Path("m.pt"), {"aten::relu", "prim::If"})


def test_every_registered_operator_that_takes_a_file_name_is_refused():
    """All operators of this torch whose arguments speak of files, in the namespaces that are allowed."""
    from compressor.model.expressions import FILE_OPERATORS, OPERATOR_NAMESPACES

    found = {
        name
        for namespace, name in (
            schema.name.split("::")
            for schema in torch._C._jit_get_all_schemas()
            if any(word in a.name for a in schema.arguments for word in ("file", "url", "library"))
            or any(a.name == "path" and "str" in str(a.type) for a in schema.arguments)
        )
        if namespace in OPERATOR_NAMESPACES
    }
    assert found
    assert found <= FILE_OPERATORS


# --- pickles -------------------------------------------------------------------------------------------------------


def test_plain_pickle(tmp_path, payload, marker):
    path = tmp_path / "m.pt"
    path.write_bytes(pickle.dumps(payload))
    assert runs(marker, lambda: pickle.loads(path.read_bytes()))
    refuse(
        path,
        marker,
        f"is a pickled Python object ('{os.mkdir.__module__}.mkdir'); loading it runs whatever code is in it; add "
        "--allow-pickle only if you trust where it comes from; better save it with torch.export.save (.pt2), or "
        "model.state_dict() for --arch",
    )


@pytest.mark.parametrize("zipped", [True, False])
def test_state_dict_with_a_payload(saved, tmp_path, payload, marker, zipped):
    path = tmp_path / "m.pt"
    torch.save(saved.module.state_dict() | {"extra": payload}, path, _use_new_zipfile_serialization=zipped)
    assert runs(marker, lambda: torch.load(path, weights_only=False))
    for read in (load_model, describe):
        with pytest.raises(UnsafeFileError) as caught:
            read(path, arch=saved.arch, input_shapes=SHAPES)
        assert str(caught.value) == (
            f"{path}: holds '{os.mkdir.__module__}.mkdir', which is no tensor and could run code when it is loaded; "
            "where it was made, save model.state_dict() alone; or add --allow-pickle if you trust where it comes from"
        )
    assert not marker.exists()


def test_a_payload_runs_only_with_permission(saved, tmp_path, payload, marker):
    path = tmp_path / "m.pt"
    torch.save(saved.module.state_dict() | {"extra": payload}, path)
    load_model(path, arch=saved.arch, input_shapes=SHAPES, allow_pickle=True)
    assert marker.exists()


def test_deeply_nested_pickle_does_not_hang(tmp_path):
    path = tmp_path / "m.pt"
    path.write_bytes(b"\x80\x02)" + b"\x85" * 2_000_000 + b".")
    with pytest.raises(ModelError, match="its pickle is nested over 200 deep"):
        load_model(path)
