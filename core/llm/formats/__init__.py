"""How models write tool calls and reasoning, and the parsers that read it.

A plugin's parser is a class of its own on `OutputParser`, or, mostly data, on `ToolParser` or `ReasoningParser`.
"""

from .base import CallArguments, CallStart, Content, OutputParser, ParserContext, Piece, Reasoning
from .headed_calls import HeadedCalls
from .json_calls import JsonCalls
from .literal_calls import BraceCalls, PythonCalls
from .reasoning import ReasoningParser
from .tag_calls import TagCalls
from .tools import Body, Section, ToolParser

__all__ = [
    "Body",
    "BraceCalls",
    "CallArguments",
    "CallStart",
    "Content",
    "HeadedCalls",
    "JsonCalls",
    "OutputParser",
    "ParserContext",
    "Piece",
    "PythonCalls",
    "Reasoning",
    "ReasoningParser",
    "Section",
    "TagCalls",
    "ToolParser",
]
