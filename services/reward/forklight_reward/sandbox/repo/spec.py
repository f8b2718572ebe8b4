"""What a repository task asks for: the faulty tree, hidden tests, ids that must pass; checked in full."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from forklight_reward.sandbox.repo.paths import Protection, clash_in, path_problem, protect

MAX_IDS = 2000
MAX_FILES = 20_000
MAX_TREE_BYTES = 64 * 2**20
NODE_ID = re.compile(
    r"(?P<file>[^:\0]+\.py)::(?P<names>[A-Za-z_]\w*(?:::[A-Za-z_]\w*)*)(?P<case>\[.*\])?", re.S
)

Ids = Annotated[list[Annotated[str, StringConstraints(max_length=2000)]], Field(max_length=MAX_IDS)]


class RepoTests(BaseModel):
    """A faulty tree and the tests that a patch to it must pass."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    files: dict[str, str]
    """The faulty tree: path to text."""
    hidden: dict[str, str] = Field(default_factory=dict)
    """Tests written over the tree after the patch."""
    patch: str = ""
    """The patch to judge, for the command line; in the service it is the answer."""
    f2p: Ids
    """Ids (pytest node ids) that fail in the faulty tree and must pass."""
    p2p: Ids = Field(default_factory=list)
    """Ids that pass in the faulty tree and must still pass."""

    @model_validator(mode="after")
    def check(self) -> RepoTests:
        """Refuse what no run could judge."""
        check_tree(self.files, "files")
        check_tree(self.hidden, "hidden")
        if not self.f2p:
            raise ValueError("f2p is empty: a task needs a test that the fault fails")
        if len({*self.f2p, *self.p2p}) != len(self.f2p) + len(self.p2p):
            raise ValueError("f2p and p2p name an id twice")
        known = self.files | self.hidden
        for test_id in (*self.f2p, *self.p2p):
            if test_file(test_id) not in known:
                raise ValueError(f"id {test_id!r}: its file is in neither files nor hidden")
        if clash := clash_in(known):
            raise ValueError(f"{clash!r} is a file and a folder")
        return self

    @property
    def protection(self) -> Protection:
        """What a patch cannot change."""
        return protect(self.files, self.hidden, map(test_file, (*self.f2p, *self.p2p)))


def check_tree(tree: dict[str, str], name: str) -> None:
    """ValueError for a path or a size that no tree may have."""
    if len(tree) > MAX_FILES or sum(map(len, tree.values())) > MAX_TREE_BYTES:
        raise ValueError(f"{name}: more than {MAX_FILES} files or {MAX_TREE_BYTES} characters")
    for path in tree:
        if problem := path_problem(path):
            raise ValueError(f"{name}: path {path!r} {problem}")


def test_file(test_id: str) -> str:
    """The file of an id. ValueError for what is no node id."""
    return split_id(test_id)[0]


def split_id(test_id: str) -> tuple[str, tuple[str, ...], str]:
    """File, names down to the function, and the case in brackets."""
    found = NODE_ID.fullmatch(test_id)
    if found is None or path_problem(found["file"]):
        raise ValueError(f"id {test_id!r} is no pytest node id (tests/test_x.py::[Class::]name[case])")
    return found["file"], tuple(found["names"].split("::")), found["case"] or ""
