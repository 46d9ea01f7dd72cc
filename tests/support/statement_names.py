"""Which statements the package uses, found exactly by reading its source, not by running it.

The name given to `statement()` must be a literal, or reach it in a way that can be followed: a conditional of literals, a
local variable, a parameter that every caller gives a literal, a field or class attribute that is always a literal.
Everything else is reported, so that no statement is used by a name that nobody can search for."""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Place:
    """An expression in a file, inside a function or not."""

    file: str
    expression: ast.expr
    function: Function | None

    @property
    def key(self) -> tuple[str, str]:
        return self.file, ast.unparse(self.expression)

    def at(self, expression: ast.expr) -> "Place":
        return Place(self.file, expression, self.function)


@dataclass
class Reader:
    """computed: names that cannot be followed, by file and expression, each with all that it can be."""

    trees: Mapping[str, ast.Module]
    computed: Mapping[tuple[str, str], set[str]]
    problems: list[str] = field(default_factory=list)
    met: set[tuple[str, str]] = field(default_factory=set)  # of `computed`
    _calls: list[tuple[Place, ast.Call]] = field(default_factory=list)
    _classes: list[tuple[str, ast.ClassDef]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for file, tree in self.trees.items():
            nodes = list(ast.walk(tree))
            self._classes += [(file, node) for node in nodes if isinstance(node, ast.ClassDef)]
            self._calls += [(Place(file, call, function), call) for call, function in _calls(tree, None)]
            self.problems += [f"{file}:{line}: statement is not called here" for line in _uncalled(nodes)]

    def names(self) -> set[str]:
        """Every name that can reach `statement()`."""
        return {
            name
            for place, call in self._calls
            if _called(call) == "statement"
            for name in self._argument(place, call, 0)
        }

    def _argument(self, place: Place, call: ast.Call, position: int, keyword: str = "name") -> set[str]:
        given = next((one.value for one in call.keywords if one.arg == keyword), None)
        if given is None and len(call.args) > position and not any(isinstance(a, ast.Starred) for a in call.args):
            given = call.args[position]
        return self._resolve(place.at(call if given is None else given))

    def _resolve(self, place: Place) -> set[str]:
        if place.key in self.computed:
            self.met.add(place.key)
            return self.computed[place.key]
        match place.expression:
            case ast.Constant(value=str(name)):
                return {name}
            case ast.IfExp(body=one, orelse=other):
                return self._resolve(place.at(one)) | self._resolve(place.at(other))
            case ast.Name(id=name) if place.function and name in (known := _parameters(place.function)):
                return self._given(place.file, place.function.name, known.index(name), name) or self._problem(place)
            case ast.Name(id=name) if place.function and (values := _assigned(place.function, name)):
                return set().union(*(self._resolve(place.at(value)) for value in values))
            case ast.Attribute(attr=name):
                return self._field(name) or self._problem(place)
        return self._problem(place)

    def _given(self, file: str, called: str, position: int, keyword: str) -> set[str]:
        """What the callers of a function or a class give for a parameter; a private one is called in its own file."""
        calls = [(place, call) for place, call in self._calls if _called(call) == called]
        own = [(place, call) for place, call in calls if place.file == file or not called.startswith("_")]
        return set().union(*(self._argument(place, call, position, keyword) for place, call in own))

    def _field(self, name: str) -> set[str]:
        """What the instances of every class with that field are made with, and what the classes themselves hold."""
        names: set[str] = set()
        for file, owner in self._classes:
            fields = [node.target.id for node in owner.body if _is_field(node)]
            names |= {value for node in owner.body if (value := _held(node, name)) is not None}
            if name in fields:
                names |= self._given(file, owner.name, fields.index(name), name)
        return names

    def _problem(self, place: Place) -> set[str]:
        self.problems.append(
            f"{place.file}:{place.expression.lineno}: not the literal name of a statement: {place.key[1]}"
        )
        return set()


def parsed(files: Mapping[str, Path]) -> dict[str, ast.Module]:
    return {name: ast.parse(file.read_text(encoding="utf-8")) for name, file in files.items()}


def _calls(node: ast.AST, function: Function | None) -> Iterator[tuple[ast.Call, Function | None]]:
    """Every call, with the function that it is in."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Call):
            yield child, function
        yield from _calls(child, child if isinstance(child, Function) else function)


def _called(call: ast.Call) -> str:
    match call.func:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""


def _uncalled(nodes: list[ast.AST]) -> list[int]:
    """Lines where `statement` is passed on or renamed, so that its calls could not be found."""
    called = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
    used = [node for node in nodes if isinstance(node, ast.Name) and node.id == "statement"]
    renamed = [node for node in nodes if isinstance(node, ast.alias) and node.name == "statement" and node.asname]
    return [node.lineno for node in used if id(node) not in called] + [node.lineno for node in renamed]


def _parameters(function: Function) -> list[str]:
    names = [argument.arg for argument in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)]
    return names[1:] if names[:1] in (["self"], ["cls"]) else names


def _assigned(function: Function, name: str) -> list[ast.expr]:
    """What a local variable is given, wherever in the function."""
    found = [node for node in ast.walk(function) if isinstance(node, ast.Assign)]
    return [node.value for node in found if any(isinstance(t, ast.Name) and t.id == name for t in node.targets)]


def _is_field(node: ast.stmt) -> bool:
    return isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)


def _held(node: ast.stmt, name: str) -> str | None:
    """The literal that a class body gives to a name."""
    match node:
        case ast.Assign(targets=[ast.Name(id=target)], value=ast.Constant(value=str(value))) if target == name:
            return value
        case ast.AnnAssign(target=ast.Name(id=target), value=ast.Constant(value=str(value))) if target == name:
            return value
    return None
