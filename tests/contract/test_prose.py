"""Docstrings begin with a verb or a noun, not with a question word."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("densekit", "projects", "benchmarks", "datasets")
QUESTION = re.compile(r"[\W_]*(what|whether|how|where|which|when|who|whom|whose|why)\b", re.IGNORECASE)
OPENING = re.compile('"""' + QUESTION.pattern, re.IGNORECASE)
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def questions(path: Path) -> list[str]:
    """``file:line: first line`` of each docstring that begins with a question word."""
    found = []
    text = path.read_text()
    if not OPENING.search(text):  # parsing every file takes long
        return found
    for node in ast.walk(ast.parse(text)):
        docstring = ast.get_docstring(node) if isinstance(node, DOCUMENTED) else None
        if docstring and QUESTION.match(docstring):
            found.append(f"{path.relative_to(ROOT)}:{node.body[0].lineno}: {docstring.splitlines()[0]}")
    return found


def test_no_docstring_begins_with_a_question_word():
    files = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    found = [line for path in [*files, ROOT / "train_net.py"] for line in questions(path)]
    assert not found, "Begin with a verb or a noun:\n" + "\n".join(found)
