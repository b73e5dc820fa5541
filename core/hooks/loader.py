"""Find, check and load plugins; every failure is kept as a row with its reason and remedy."""

import inspect
import logging
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pluggy

from . import specs
from .checks import InvalidValue, check_value
from .types import Engine, Family, Hub, InstanceEvent, ModelFiles, ModelType, OutputFormat

__all__ = ["PluginRow", "Plugins", "load_plugins"]

log = logging.getLogger(__name__)

CORE_PLUGIN = "builtin"
PREFIXES = ("register_", "resolve_", "on_")


@dataclass(slots=True)
class PluginRow:
    """One plugin, loaded or not.

    Args:
        module: the module that its entry point names.
        api: number of the plugin API it was written for.
        problems: what went wrong, with the remedy of each; a plugin with problems may still work in part.
        is_failed: nothing of it is in use.
    """

    name: str
    distribution: str = ""
    version: str = ""
    module: str = ""
    api: int | None = None
    model_types: list[str] = field(default_factory=list)
    engines: list[str] = field(default_factory=list)
    families: list[str] = field(default_factory=list)
    hubs: list[str] = field(default_factory=list)
    output_formats: list[str] = field(default_factory=list)
    hooks: list[str] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)
    is_failed: bool = False

    @property
    def state(self) -> str:
        """Return `loaded`, `partial` (something was refused) or `failed`."""
        if self.is_failed:
            return "failed"
        return "partial" if self.problems else "loaded"

    def to_json(self) -> dict[str, Any]:
        """Return the row as `modelrack plugins --json` prints it."""
        return {
            "name": self.name,
            "version": self.version,
            "distribution": self.distribution,
            "api": self.api,
            "state": self.state,
            "model_types": self.model_types,
            "engines": self.engines,
            "families": len(self.families),
            "hubs": self.hubs,
            "output_formats": self.output_formats,
            "hooks": self.hooks,
            "failure": "; ".join(reason for reason, _ in self.problems) or None,
            "remedy": "; ".join(dict.fromkeys(remedy for _, remedy in self.problems if remedy)) or None,
        }


class Plugins:
    """The loaded plugins and what they registered, in a fixed order: the core's own first, then by name."""

    def __init__(self) -> None:
        self.rows: list[PluginRow] = []
        self.model_types: dict[str, ModelType] = {}
        self.families: list[tuple[str, Family]] = []
        self.engines: dict[str, Engine] = {}
        self.hubs: dict[str, Hub] = {}
        self.output_formats: dict[str, OutputFormat] = {}
        self._owners: dict[tuple[str, str], str] = {}
        self._modules: list[tuple[str, object]] = []
        self._manager = pluggy.PluginManager(specs.GROUP)
        self._manager.add_hookspecs(specs)

    def row(self, name: str) -> PluginRow:
        """Return the row of a plugin."""
        return next(row for row in self.rows if row.name == name)

    def owner(self, kind: str, name: str) -> str | None:
        """Return which plugin brought a `model type`, `engine`, `hub` or `output format`."""
        return self._owners.get((kind, name))

    def add_problem(self, plugin: str, message: str, remedy: str = "") -> None:
        """Keep that part of what a plugin brings was refused."""
        log.warning("plugin %s: %s", plugin, message)
        self.row(plugin).problems.append((message, remedy))

    def find_engine(self, name: str, model_type: str | None = None) -> Engine | None:
        """Return the engine of this name, else the one with this alias, else None; in upper or lower case.

        Args:
            model_type: engines that run it come first: one library may have an engine for each of several types.
        """
        wanted = name.lower()
        found = [engine for engine in self.engines.values() if engine.name.lower() == wanted]
        found += [engine for engine in self.engines.values() if wanted in map(str.lower, engine.aliases)]
        fitting = (engine for engine in found if model_type in (None, *engine.model_types))
        return next(fitting, found[0] if found else None)

    def module_of(self, engine_name: str) -> str:
        """Return the module of the plugin that brings an engine, as its entry point names it."""
        return self.row(self._owners["engine", engine_name]).module

    def feature_engines(self, model_type: str, engine_name: str) -> dict[str, tuple[str, ...]]:
        """Return which engines of a model type can do what a given one does not claim: their names by feature."""
        own = self.engines[engine_name].features if engine_name in self.engines else ()
        found: dict[str, tuple[str, ...]] = {}
        for engine in self.engines.values():
            if model_type in engine.model_types:
                for feature in engine.features:
                    if feature not in own:
                        found[feature] = (*found.get(feature, ()), engine.name)
        return found

    def resolve_model(self, ref: str) -> ModelFiles | None:
        """Ask each plugin for the files of a reference; the first answer counts."""
        for name, hook in self._implementations("resolve_model"):
            try:
                files: ModelFiles | None = hook(ref=ref)
            except Exception:
                log.exception("plugin %s: resolve_model failed", name)
                continue
            if files is not None:
                return files
        return None

    def emit(self, event: InstanceEvent) -> None:
        """Tell each plugin of an event; what one raises is logged with its name."""
        for name, hook in self._implementations("on_instance_event"):
            try:
                hook(event=event)
            except Exception:
                log.exception("plugin %s: on_instance_event failed", name)

    def listens(self) -> bool:
        """Return whether any plugin wants to hear of events."""
        return any(True for _ in self._implementations("on_instance_event"))

    def _implementations(self, hook: str) -> Iterator[tuple[str, Callable[..., Any]]]:
        """Yield a hook's implementations, each with its plugin's name; arguments it does not name are left out."""
        implementations = {impl.plugin_name: impl for impl in getattr(self._manager.hook, hook).get_hookimpls()}
        for name, _ in self._modules:
            if name in implementations:
                impl = implementations[name]
                yield name, _with_known_arguments(impl.function, impl.argnames)

    def _add(self, entry: EntryPoint) -> None:
        row = PluginRow(
            name=entry.name,
            distribution=entry.dist.name if entry.dist else "",
            version=entry.dist.version if entry.dist else "",
            module=entry.module,
        )
        self.rows.append(row)
        try:
            module = entry.load()
            row.api = _check_api(module)
            _check_spelling(module)
            self._manager.register(module, name=entry.name)
            self._manager.check_pending()
            row.hooks = sorted(caller.name for caller in self._manager.get_hookcallers(module) or ())
            if not row.hooks:
                raise UnknownHook(_without_hooks(module))
        except BaseException as error:  # an import may even raise SystemExit; it costs this plugin only
            if isinstance(error, KeyboardInterrupt):
                raise
            self._fail(row, error)
            return
        self._modules.append((entry.name, module))

    def _fail(self, row: PluginRow, error: BaseException) -> None:
        plugin = self._manager.get_plugin(row.name)
        if plugin is not None:
            self._manager.unregister(plugin)
        self._modules = [(name, module) for name, module in self._modules if name != row.name]
        row.is_failed = True
        reason, remedy = _explain(row, error)
        row.problems.append((reason, remedy))
        log.warning("plugin %s was left out: %s", row.name, reason)
        log.debug("plugin %s", row.name, exc_info=error)

    def _collect(self) -> None:
        """Call the register hooks; a plugin that raises loses all that it brings."""
        for name, module in list(self._modules):
            row = self.row(name)
            try:
                types = self._call(module, "register_model_types", ModelType)
                hubs = self._call(module, "register_hubs", Hub)
                formats = self._call(module, "register_output_formats", OutputFormat)
                engines = self._call(module, "register_engines", Engine)
                families = self._call(module, "register_families", Family)
            except Exception as error:
                self._fail(row, error)
                continue
            for model_type in types:
                self._take_type(row, model_type)
            for hub in hubs:
                self._take(row, "hub", hub.name, hub, self.hubs, row.hubs)
            for output_format in formats:
                self._take_format(row, output_format)
            for engine in engines:
                self._take(row, "engine", engine.name, engine, self.engines, row.engines)
            self.families.extend((name, family) for family in families)
            row.families = [family.name for family in families]

    def _check_types(self) -> None:
        """Tell the owners of families and engines whose model type nobody brings."""
        brought: dict[str, dict[str, str]] = {}
        for owner, family in self.families:
            brought.setdefault(owner, {}).setdefault(family.model_type, f"family '{family.name}'")
        for name, engine in self.engines.items():
            if not any(model_type in self.model_types for model_type in engine.model_types):
                unknown = ", ".join(engine.model_types)
                brought.setdefault(self._owners["engine", name], {}).setdefault(unknown, f"engine '{name}'")
        for owner, types in brought.items():
            for unknown, what in types.items():
                if unknown not in self.model_types:
                    reason = f"{what} is of the model type '{unknown}', which no plugin brings"
                    close = next((known for known in self.model_types if known.lower() == unknown.lower()), None)
                    known = ", ".join(self.model_types)
                    self.add_problem(owner, reason, f"Did you mean '{close}'?" if close else f"There are: {known}.")

    def _call(self, module: object, hook: str, kind: type) -> list[Any]:
        implementation = next(
            (impl for impl in getattr(self._manager.hook, hook).get_hookimpls() if impl.plugin is module), None
        )
        if implementation is None:
            return []
        result = implementation.function()
        if not isinstance(result, Iterable) or isinstance(result, str | bytes):
            raise InvalidValue(f"{hook} must return a list of {kind.__name__}, not {type(result).__name__}")
        values = list(result)
        for value in values:
            if not isinstance(value, kind):
                raise InvalidValue(
                    f"{hook} must return a list of {kind.__name__}, but it holds a {type(value).__name__}"
                )
            check_value(value)
        return values

    def _take(
        self, row: PluginRow, kind: str, name: str, value: Any, registry: dict[str, Any], listed: list[str]
    ) -> None:
        taken = next((known for known in registry if known.lower() == name.lower()), None)
        if taken is not None:
            owner = self._owners[kind, taken]
            reason = f"{kind} '{name}' is already registered by plugin '{owner}'"
            self.add_problem(row.name, reason, "Rename one of them.")
            return
        registry[name] = value
        self._owners[kind, name] = row.name
        listed.append(name)

    def _take_type(self, row: PluginRow, model_type: ModelType) -> None:
        known = self.model_types.get(model_type.name)
        paths = {route.path: (owner, route) for owner, route in self._routes()}
        own = {route.path for route in known.routes} if known else set()
        routes = []
        for route in model_type.routes:
            owner, taken = paths.get(route.path, (row.name, route))
            # Types may share a route, if it is the same one.
            if route.path in own or (owner, taken) != (row.name, route):
                reason = f"path {route.path} is already registered by plugin '{owner}'"
                self.add_problem(row.name, reason, "Choose another path.")
            else:
                routes.append(route)
                own.add(route.path)
                self._owners["path", route.path] = row.name
        self._owners.setdefault(("model type", model_type.name), row.name)
        self.model_types[model_type.name] = ModelType(
            name=model_type.name,
            routes=(*(known.routes if known else ()), *routes),
            abilities=tuple(dict.fromkeys((*(known.abilities if known else ()), *model_type.abilities))),
        )
        row.model_types.append(model_type.name)

    def _take_format(self, row: PluginRow, output_format: OutputFormat) -> None:
        """Take a format whose name and aliases are all free: models are matched with formats by these words alone."""
        taken = {word.lower(): known for known in self.output_formats.values() for word in (known.name, *known.aliases)}
        for word in (output_format.name, *output_format.aliases):
            if (known := taken.get(word.lower())) is not None:
                owner = self._owners["output format", known.name]
                what = f"output format '{output_format.name}'"
                if word != output_format.name:
                    what = f"alias '{word}' of {what}"
                self.add_problem(row.name, f"{what} is already registered by plugin '{owner}'", "Rename one of them.")
                return
        name = output_format.name
        self._take(row, "output format", name, output_format, self.output_formats, row.output_formats)

    def _routes(self) -> Iterator[tuple[str, Any]]:
        for model_type in self.model_types.values():
            for route in model_type.routes:
                yield self._owners["path", route.path], route


def load_plugins(only: str | None = None) -> Plugins:
    """Load the plugins installed in this environment.

    Args:
        only: comma-separated names of those to load; the core's own always comes along. None loads all.

    Returns: what was loaded; a plugin that fails, or a name in `only` that is not installed, is a failed row.
    """
    plugins = Plugins()
    entries = {entry.name: entry for entry in _unique(entry_points(group=specs.GROUP), plugins)}
    wanted = None if only is None else {name.strip() for name in only.split(",") if name.strip()}
    for name in sorted(entries, key=lambda name: (name != CORE_PLUGIN, name)):
        if wanted is None or name in wanted or name == CORE_PLUGIN:
            plugins._add(entries[name])
    for name in sorted((wanted or set()) - set(entries)):
        close = get_close_matches(name, entries, n=1)
        remedy = f"Did you mean '{close[0]}'?" if close else "Install it, or leave it out of MODELRACK_PLUGINS."
        plugins.rows.append(PluginRow(name=name, problems=[("not installed", remedy)], is_failed=True))
    plugins._collect()
    plugins._check_types()
    return plugins


def _unique(entries: Iterable[EntryPoint], plugins: Plugins) -> Iterator[EntryPoint]:
    """Yield the entries with one plugin for each name; others of that name become failed rows."""
    seen: dict[str, EntryPoint] = {}
    for entry in entries:
        first = seen.setdefault(entry.name, entry)
        if first is entry:
            yield entry
        elif (first.value, first.dist and first.dist.name) != (entry.value, entry.dist and entry.dist.name):
            owner = first.dist.name if first.dist else first.value
            plugins.rows.append(
                PluginRow(
                    name=entry.name,
                    distribution=entry.dist.name if entry.dist else "",
                    version=entry.dist.version if entry.dist else "",
                    problems=[(f"the name '{entry.name}' is already taken by {owner}", "Uninstall one of them.")],
                    is_failed=True,
                )
            )


def _check_api(module: object) -> int:
    api = getattr(module, "MODELRACK_API", specs.API_VERSION)
    if api != specs.API_VERSION:
        raise IncompatibleApi(f"it was written for plugin API {api}, and this modelrack has {specs.API_VERSION}")
    return specs.API_VERSION


class IncompatibleApi(Exception):
    """The plugin was written for another plugin API."""


class UnknownHook(Exception):
    """The plugin implements a hook that does not exist, or names an argument that the hook has not."""


def _check_spelling(module: object) -> None:
    """Refuse hook implementations that no specification knows.

    Raises: UnknownHook: with the closest name.
    """
    known = {
        name: tuple(inspect.signature(value).parameters)
        for name, value in vars(specs).items()
        if name.startswith(PREFIXES)
    }
    for name, value in vars(module).items():
        if not callable(value) or not hasattr(value, f"{specs.GROUP}_impl"):
            continue
        hook = (getattr(value, f"{specs.GROUP}_impl") or {}).get("specname") or name
        if hook not in known:
            close = get_close_matches(hook, known, n=1)
            hint = f"; did you mean '{close[0]}'?" if close else f"; hooks are: {', '.join(sorted(known))}"
            raise UnknownHook(f"there is no hook '{hook}'{hint}")
        extra = [argument for argument in inspect.signature(value).parameters if argument not in known[hook]]
        if extra:
            raise UnknownHook(f"hook '{hook}' has no argument '{extra[0]}'; it has: {', '.join(known[hook]) or 'none'}")


def _without_hooks(module: object) -> str:
    """Say why nothing of a module is called."""
    unmarked = [name for name in vars(specs) if name.startswith(PREFIXES) and callable(getattr(module, name, None))]
    if unmarked:
        return f"'{unmarked[0]}' is not marked with @hookimpl, so it is no hook"
    return f"no hook in {getattr(module, '__name__', module)}: mark functions with @hookimpl of modelrack.hooks"


def _with_known_arguments(function: Callable[..., Any], names: Iterable[str]) -> Callable[..., Any]:
    accepted = frozenset(names)
    return lambda **arguments: function(**{key: value for key, value in arguments.items() if key in accepted})


def _explain(row: PluginRow, error: BaseException) -> tuple[str, str]:
    """Return what failed, with the place in the plugin, and what can be done about it."""
    distribution = row.distribution or row.name
    if isinstance(error, IncompatibleApi):
        return str(error), f"Install matching versions: pip install --upgrade modelrack {distribution}"
    if isinstance(error, UnknownHook | pluggy.PluginValidationError):
        return str(error), f"Correct the hook in {distribution}, or upgrade modelrack."
    if isinstance(error, InvalidValue):
        return str(error), f"Correct it in {distribution}, or upgrade modelrack."
    if isinstance(error, ModuleNotFoundError) and error.name:
        top = error.name.partition(".")[0]
        return f"import failed: {error}", f"Install what it needs (module '{top}'), or reinstall {distribution}."
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<")]
    place = f" ({frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno})" if frames else ""
    if isinstance(error, SyntaxError):
        place = ""  # its text has it
    return f"{type(error).__name__}: {error}{place}", f"Report it to the authors of {distribution}, or uninstall it."
