"""What engines are asked for, settled and checked before anything is written."""

import importlib.metadata
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...plugins.loader import PluginInfo, find_library, library_info
from ..bundle import Bundle
from ..errors import EnvironmentLack, InputError, ToolError
from ..graphs.lowering.plugin import OPERATORS
from ..graphs.lowering.ports import Ports, ports_of
from ..inspection.memory_sites import DOMAIN
from ..inspection.values import load_graph
from ..keep_fp32 import patterns_of
from ..precisions import DTYPES, PLAIN, rounded_weights
from ..settings import beams_of
from .profiles import BATCH, SEQUENCE, Profile, make_profiles
from .shape_texts import Shapes
from .targets import TARGETS, check_option, check_request, target_named
from .tensorrt_module import target_of

PLUGIN = ("auto", "on", "off")


@dataclass(frozen=True)
class Request:
    """Engines to build. None leaves a choice open: precision is then the bundle's, target the TensorRT that is
    installed, components are all, max_batch and max_seq those of `make_profiles`.

    plugin is "auto", "on" or "off"; cache "delta", "concat" or "in_place", whose buffers hold max_seq columns;
    single_pass leaves the cache out. Shapes are by input name. workspace is in bytes, builder_effort 0 to 5.
    timing_cache is a file to read and to update. keep_fp32 are globs of modules that stay float32 in half engines; with
    none the bundle's graphs are taken as they are.
    """

    precision: str | None = None
    target: str | None = None
    components: Sequence[str] = ()
    plugin: str = "auto"
    cache: str = "delta"
    single_pass: bool = False
    max_batch: int | None = None
    max_seq: int | None = None
    min_shapes: Shapes = field(default_factory=dict)
    opt_shapes: Shapes = field(default_factory=dict)
    max_shapes: Shapes = field(default_factory=dict)
    workspace: int | None = None
    timing_cache: Path | None = None
    builder_effort: int | None = None
    embed_plugin: bool = False
    keep_fp32: Sequence[str] = ()


@dataclass(frozen=True)
class Lowering:
    """How a component's memory lookups are built, "plugin" or "native", and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Settled:
    """A request with nothing left open: precision, target, and the lowering of every component that is built. library
    is the plugin's; where engines are built elsewhere there may be none, and the one who builds gives it. keep_fp32 are
    each component's patterns of what stays float32; untraced are the components without such a graph yet; notes are
    what to know of engines like these."""

    request: Request
    precision: str
    target: str
    lowerings: dict[str, Lowering]
    library: PluginInfo | None = None
    keep_fp32: Mapping[str, Sequence[str]] = field(default_factory=dict)
    untraced: Sequence[str] = ()
    notes: Sequence[str] = ()


def settle(bundle: Bundle, request: Request, elsewhere: bool = False) -> Settled:
    """Fill in what a request leaves open and check it against bundle and target.

    elsewhere: the engines are built on another machine, so that no TensorRT and no plugin library need be here. Raises
    InputError for what bundle or target do not have, EnvironmentLack where TensorRT or a plugin that was asked for is
    missing.
    """
    manifest = bundle.manifest
    precision = request.precision or manifest["precision"]
    target = target_named(request.target or _installed_target(elsewhere))
    for option in ("workspace", "timing_cache", "builder_effort"):
        if getattr(request, option) is not None:
            check_option(target, option)
    if request.embed_plugin:
        check_option(target, "embed_plugin")
    if request.builder_effort is not None and not 0 <= request.builder_effort <= 5:
        raise InputError(f"builder effort is 0 to 5, not {request.builder_effort}.")
    names = list(request.components or manifest["components"])
    if unknown := [name for name in names if name not in manifest["components"]]:
        known = ", ".join(manifest["components"])
        raise InputError(f"{bundle.root} has no component {', '.join(unknown)}; it has {known}.")
    if precision not in PLAIN and any(precision not in manifest["components"][name]["graphs"] for name in names):
        raise InputError(
            f"{bundle.root} has no {precision} graphs. Make them, from data that is like its use:  "
            f"memvp-export calibrate {bundle.root} --data PATH --precision {precision}"
        )
    for name in names:
        # A graph that is yet to be traced gets an opset that every target takes.
        graph = manifest["components"][name]["graphs"].get(precision, {"opset": 0})
        check_request(target, precision, request.cache, graph["opset"])
    _check_applies(bundle, names, request)
    kind, capacity = request.cache, capacity_of(request)
    ports = [ports_of(manifest["components"][name], kind, capacity, request.single_pass) for name in names]
    _check_shape_names(ports, request)
    profiles = [profile for part in ports for profile in profiles_for(part.inputs, part.ranges, request)]
    library = _library(request, bundle.plain_precision(precision), target.plugin, elsewhere)
    lowerings = {name: _lowering(bundle, name, request, library) for name in names}
    keep = _keep_fp32(bundle, names, request, precision)
    untraced = [name for name in names if _is_untraced(bundle, name, precision, keep[name])]
    rounded = rounded_weights(manifest["precision"], precision)
    notes = [*([rounded] if rounded else []), *_replaced(manifest, request, precision, target.name, lowerings)]
    notes += _too_few_rows(beams_of(manifest), profiles)
    return Settled(request, precision, target.name, lowerings, library, keep, untraced, notes)


def _replaced(
    manifest: Mapping[str, Any], request: Request, precision: str, target: str, lowerings: Mapping[str, Lowering]
) -> list[str]:
    """Which engines with another kind of cache these will take the place of, where TensorRT and GPU are the same."""
    asked = "no cache" if request.single_pass else f"cache {request.cache}"
    found = []
    for entry in manifest["engines"]:
        name = entry["component"]
        made = (name, precision, target, lowerings[name].name) if name in lowerings else None
        if made != tuple(entry[key] for key in ("component", "precision", "target", "lowering")):
            continue
        held = f"cache {entry['cache']['kind']}" if entry["cache"] else "no cache"
        if manifest["components"][name]["cache"] and held != asked:
            found.append(
                f"{entry['file']} has {held}: where TensorRT and GPU are the same, the new engine, with {asked}, "
                "replaces it"
            )
    return found


def _too_few_rows(beams: int, profiles: Sequence[Profile]) -> list[str]:
    """Whether the beams that a bundle's model is used with find no room in engines of these profiles."""
    if beams == 1:
        return []
    rows = min(shapes["max"][0] for profile in profiles for shapes in profile.shapes.values())
    if rows >= beams:
        return []
    return [
        f"run takes {beams} beams unless told otherwise, and these engines take {rows} rows: build with --max-batch "
        f"{beams}, or run with --beams {rows}"
    ]


def capacity_of(request: Request) -> int | None:
    """The columns of a cache in place; the other kinds grow."""
    return request.max_seq if request.cache == "in_place" else None


def profiles_for(
    inputs: Sequence[Mapping[str, Any]], ranges: Mapping[str, Sequence[int]], request: Request
) -> list[Profile]:
    """The profiles of a component with these inputs; see `make_profiles` for what does not fit."""
    names = {port["name"] for port in inputs}
    shapes = {
        which: {name: shape for name, shape in getattr(request, which).items() if name in names}
        for which in ("min_shapes", "opt_shapes", "max_shapes")
    }
    return make_profiles(inputs, ranges, max_batch=request.max_batch, max_seq=request.max_seq, **shapes)


def _check_applies(bundle: Bundle, names: Sequence[str], request: Request) -> None:
    """Raise InputError for an option that changes nothing in any of the components."""
    components = {name: bundle.manifest["components"][name] for name in names}
    listed = " and ".join(names)
    cached = any(component["cache"] for component in components.values())
    dims = {dim for component in components.values() for dim in component["ranges"]}
    for given, applies, flag, lacks in (
        (request.cache != "delta", cached, f"--cache {request.cache}", "without a cache"),
        (request.single_pass, cached, "--single-pass", "without a cache to leave out"),
        (request.max_seq is not None, any(dim.endswith(SEQUENCE) for dim in dims), "--max-seq", "without columns"),
        (request.max_batch is not None, BATCH in dims, "--max-batch", "of one batch size alone"),
    ):
        if given and not applies:
            be = "are" if len(names) > 1 else "is"
            raise InputError(f"{flag} changes nothing here: {listed} {be} {lacks}. Leave it out.")
    if request.single_pass and request.cache != "delta":
        raise InputError(f"--single-pass leaves the cache out, --cache {request.cache} gives its kind: give one.")
    ports = {port["name"] for component in components.values() for port in component["inputs"]}
    if request.single_pass and "encoder_attention_mask" in ports:
        raise InputError("--single-pass is for answers of one token, and this model writes longer ones: leave it out.")
    if request.plugin == "on":
        operators = {operator for name in names for operator in memory_operators(bundle, name)}
        if not operators & {*OPERATORS}:
            lacks = f"the plugin has no kernel for {', '.join(sorted(operators))}"
            why = lacks if operators else f"no memory is looked up in {listed}"
            raise InputError(f"--plugin on changes nothing here: {why}. Leave it out.")


def _keep_fp32(bundle: Bundle, names: Sequence[str], request: Request, precision: str) -> dict[str, tuple[str, ...]]:
    if not request.keep_fp32:
        return {name: bundle.keep_fp32(name, precision) for name in names}
    # Official names are those of the graph's stored weights; values in the graph itself are the tracer's.
    graphs = {name: load_graph(bundle.graph(name)).graph for name in names}
    stored = {
        name: [tensor.name for tensor in graph.initializer if tensor.data_location == tensor.EXTERNAL]
        for name, graph in graphs.items()
    }
    return patterns_of(bundle.manifest["family"], stored, request.keep_fp32, precision)


def _is_untraced(bundle: Bundle, name: str, precision: str, keep: Sequence[str]) -> bool:
    """Whether a graph is to be traced. Raises InputError where that would replace one that was exported."""
    if precision not in bundle.manifest["components"][name]["graphs"]:
        return True
    held = bundle.keep_fp32(name, precision)
    if {*held} == {*keep}:
        return False
    if precision == bundle.manifest["precision"]:
        asked = " ".join(f"--keep-fp32 '{pattern}'" for pattern in keep) or "without --keep-fp32"
        raise InputError(
            f"{bundle.root} was exported with {', '.join(held) or 'nothing'} of {name} kept in float32, and its own "
            f"graphs are not replaced: export the source again {asked}, or build from a bundle of another precision."
        )
    return True


def _installed_target(elsewhere: bool) -> str:
    modules = dict.fromkeys(target.module for target in TARGETS.values())
    found = [_target_here(module) for module in modules if importlib.util.find_spec(module)]
    if not found and not elsewhere:
        raise EnvironmentLack(
            "no TensorRT is installed. On a machine with an NVIDIA GPU:  pip install 'memvp-export[gpu]'  To build for "
            "TensorRT-RTX on any machine:  pip install 'memvp-export[rtx]'  To build elsewhere:  --lower-only DIR"
        )
    return (found or list(TARGETS))[0]


def _target_here(module: str) -> str:
    """The target of the installed version of a module. Where none fits, or the version is not recorded, the module's
    first: the build then says which versions are needed."""
    try:
        fitting = target_of(module, importlib.metadata.version(module))
    except importlib.metadata.PackageNotFoundError:
        fitting = None
    return fitting or next(name for name, target in TARGETS.items() if target.module == module)


def _check_shape_names(ports: Sequence[Ports], request: Request) -> None:
    known = [port["name"] for part in ports for port in part.inputs]
    given = {*request.min_shapes, *request.opt_shapes, *request.max_shapes}
    if unknown := sorted(given - {*known}):
        raise InputError(f"no input is called {', '.join(unknown)}; there is {', '.join(known)}.")


def _library(request: Request, precision: str, takes_plugin: bool, elsewhere: bool) -> PluginInfo | None:
    """The plugin library, where one is asked for."""
    if request.plugin not in PLUGIN:
        raise InputError(f"the plugin is {', '.join(PLUGIN)}, not {request.plugin!r}.")
    if request.plugin != "on":
        if request.embed_plugin:
            raise InputError("a plugin is embedded where it is used: give --plugin on too.")
        return None
    if not takes_plugin:
        raise InputError("this target takes no plugin: build with --plugin off.")
    try:
        return _installed_library(precision)
    except ToolError:
        # This machine's processor and GPU need not be those of the one that builds, which has its own.
        if not elsewhere:
            raise
        return None


def _installed_library(precision: str) -> PluginInfo:
    path = find_library()
    if path is None:
        raise EnvironmentLack("there is no plugin library. Build it with:  memvp-export plugin build")
    info = library_info(path)
    if DTYPES[precision] not in info.types:
        raise InputError(f"the plugin library {path} has no {precision} kernels; it has {', '.join(info.types)}.")
    return info


def _lowering(bundle: Bundle, name: str, request: Request, library: PluginInfo | None) -> Lowering:
    operators = memory_operators(bundle, name)
    if not operators:
        return Lowering("native", "it has no memory lookups")
    if request.plugin == "on":
        if operators & {*(library.operators if library else OPERATORS)}:
            return Lowering("plugin", "the plugin was asked for")
        return Lowering("native", f"the plugin has no kernel for {', '.join(sorted(operators))}")
    if request.plugin == "off":
        return Lowering("native", "the plugin was declined")
    return Lowering("native", "no measurement says that the plugin is faster here")


def memory_operators(bundle: Bundle, component: str) -> set[str]:
    """The operators by which a component looks memory up; empty where it does not."""
    # Every precision of a component has the same sites, and one that is asked for may not have been traced yet.
    graphs = bundle.manifest["components"][component]["graphs"]
    nodes = load_graph(bundle.graph(component, next(iter(graphs)))).graph.node
    return {node.op_type for node in nodes if node.domain == DOMAIN}
