"""The notebook docs/first_patch.ipynb, run from its first cell to its last."""

from __future__ import annotations

from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "docs" / "first_patch.ipynb"


def printed(cell: dict[str, object]) -> str:
    """What a run cell shows as text."""
    outputs: list[dict] = cell.get("outputs", [])  # type: ignore[assignment,type-arg]
    texts = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs]
    return "\n".join(texts)


@pytest.mark.slow
def test_the_notebook_runs_and_shows_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    client = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    asked = printed(code[2]).splitlines()
    assert [line.rsplit("|", 1)[1].strip().split()[0] for line in asked if "|" in line] == [
        "Euro.",
        "Euro.",
        "Danish",
    ]
    assert "All 2 facts are said" in printed(code[3]) or "text/html" in code[3]["outputs"][0]["data"]
    assert printed(code[4]) == "True"


def test_no_output_is_stored() -> None:
    """Stored outputs would be those of some earlier release."""
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
