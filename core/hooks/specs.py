"""Hooks a plugin may implement; docs/plugins/hooks.md has a section for each.

Three families: `register_*` collects once at start-up, `resolve_*` takes the first answer that is not None, `on_*`
tells and ignores the answer. The server calls each hook one plugin at a time, so that every result and every error has
an owner.
"""

import pluggy

from .types import Engine, Family, Hub, InstanceEvent, ModelFiles, ModelType, OutputFormat

API_VERSION = 1
"""Number of the plugin API. A plugin may state the one it was written for as `MODELRACK_API = 1` in its module."""

GROUP = "modelrack"
"""The entry-point group that plugins register in, and pluggy's project name."""

hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


@hookspec
def register_model_types() -> list[ModelType]:
    """Describe model types and their routes.

    Called once at start-up, in the server's process, before every other hook. Several plugins may describe one type:
    their routes add up, and a path taken by another plugin is refused.

    Raises: anything; the plugin is then listed as failed and the server starts without it.
    """
    raise NotImplementedError


@hookspec
def register_families() -> list[Family]:
    """Describe models that users can launch by name.

    Called once at start-up, in the server's process: read data files, never the network. Variants of one family that
    several plugins bring are merged; contradictory facts are refused, naming both plugins.

    Raises: anything; the plugin is then listed as failed and the server starts without it.
    """
    raise NotImplementedError


@hookspec
def register_engines() -> list[Engine]:
    """Describe every way this plugin can run a model.

    Called once at start-up, in the server's process: import no engine library here. An Engine names its loader by
    dotted path, and only the worker's process imports it.

    Returns: any number of engines; a name already taken by another plugin is refused.
    Raises: anything; the plugin is then listed as failed and the server starts without it.
    """
    raise NotImplementedError


@hookspec
def register_hubs() -> list[Hub]:
    """Describe places that models can be downloaded from.

    Called once at start-up, in the server's process.

    Returns: any number of hubs; a name already taken by another plugin is refused.
    Raises: anything; the plugin is then listed as failed and the server starts without it.
    """
    raise NotImplementedError


@hookspec
def register_output_formats() -> list[OutputFormat]:
    """Describe ways in which language models write tool calls and reasoning.

    Called once at start-up, in the server's process; the parsers they name are imported in workers only. Engines that
    parse their models' output themselves do not ask for them.

    Returns: any number of formats; a name or an alias already taken by another plugin is refused.
    Raises: anything; the plugin is then listed as failed and the server starts without it.
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def resolve_model(ref: str) -> ModelFiles | None:
    """Find the files of `ref`, a reference that no family and no path explains.

    Called at a launch, in the server's process, in a thread; it may take a moment but must not download.

    Returns: None means "not mine", and the next plugin is asked.
    Raises: anything; it is logged with the plugin's name, and the next plugin is asked.
    """


@hookspec
def on_instance_event(event: InstanceEvent) -> None:
    """Hear of a replica's change of state.

    Called in the server's process, in a thread, after the change was stored; order is kept for one replica.

    Raises: anything; it is logged with the plugin's name and changes nothing.
    """
