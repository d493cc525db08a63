import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from vlp.errors import DataError
from vlp.train.watching.logbook import note_start
from vlp.train.watching.page import Line, arrange, draw, lines_of, running_mean

HEADER = (
    "step,epoch,loss,loss_scores,loss_pooled,lr,gradient_norm,collisions,ignored,contradictions,temperature,"
    "attention_temperature,images_per_s,data_wait,memory_gb,skipped,replaced,zero_shot_auroc,entropy"
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of 300 steps, continued after step 100, with a step that was left out."""
    rng = np.random.default_rng(0)
    rows = [HEADER]
    for step in range(1, 301):
        loss = "nan" if step == 7 else f"{3 + rng.random():.6f}"
        check = f"{0.5 + step / 1000:.3f}" if step % 100 == 0 else ""
        rows.append(
            f"{step},0,{loss},2,1,0.001,{rng.random() + 0.1:.4f},0.1,0.2,0.3,0.07,0.05,{rng.integers(90, 110)},0.25,"
            f"1.5,{int(step == 7)},0,{check},{rng.random():.3f}"
        )
    folder = tmp_path / "my-run"
    folder.mkdir()
    (folder / "metrics.csv").write_text("\n".join(rows) + "\n301,0,2.")
    (folder / "config.yaml").write_text(
        "max_steps: 400\nobjective: {kind: clip}\nmodel: {image: {name: '<b>net</b>'}}\n"
    )
    (folder / "log.txt").write_text(
        "2026-01-01 10:00:00,000 I all is well\n2026-01-01 10:00:01,000 W step 7: <nothing> is updated\n"
    )
    note_start(folder / "starts.csv", step=0, processes=1)
    note_start(folder / "starts.csv", step=100, processes=2)
    return folder


def test_page_and_picture_are_drawn_from_the_files_alone(run: Path) -> None:
    facts = draw(run)
    assert facts["steps"] == 300
    assert facts["skipped"] == 1
    assert facts["page"] == str(run / "report.html")
    picture = cv2.imread(facts["picture"])
    assert picture is not None
    assert picture.std() > 5.0
    page = (run / "report.html").read_text()
    assert not re.search(r'(src|href|srcset)="(?!data:)', page)  # everything is inside
    assert page.count("data:image/png;base64,") == 2  # for light and for dark screens
    for words in ("my-run: training", "of 400, not finished", "25.0%", "Research use, not a medical device",
                  "W step 7: &lt;nothing&gt; is updated", "&lt;b&gt;net&lt;/b&gt;", "Dotted: the run was"):  # fmt: skip
        assert words in page
    assert "all is well" not in page
    assert not list(run.glob(".*"))


def test_a_page_may_have_another_name_and_is_the_same_again(run: Path) -> None:
    assert draw(run, name="training")["page"] == str(run / "training.html")
    first = (run / "training.html").read_bytes()
    draw(run, name="training")
    assert (run / "training.html").read_bytes() == first
    assert not (run / "report.html").exists()


def test_a_restart_is_seen_in_the_picture(run: Path) -> None:
    draw(run)
    with_mark = cv2.imread(str(run / "training.png"))
    (run / "starts.csv").unlink()
    draw(run)
    without = cv2.imread(str(run / "training.png"))
    assert with_mark is not None
    assert without is not None
    changed = with_mark[(with_mark != without).any(axis=2)].astype(int)
    assert len(changed) > 1000
    assert (changed[:, 2] - changed[:, 0]).mean() > 20  # more red than blue: OpenCV's order is blue, green, red
    assert "Dotted" not in (run / "report.html").read_text()


def test_every_column_is_drawn_once_and_a_new_one_gets_a_plot_of_its_own(run: Path) -> None:
    rows = [dict(zip(HEADER.split(","), line.split(","), strict=True))
            for line in (run / "metrics.csv").read_text().splitlines()[1:-1]]  # fmt: skip
    plots = arrange(lines_of(rows))
    drawn = [line.name for _, lines in plots for line in lines]
    assert sorted(drawn) == sorted(set(HEADER.split(",")) - {"step", "epoch", "replaced"})  # nothing was replaced
    titles = {panel.title: [line.name for line in lines] for panel, lines in plots}
    assert titles["Loss"] == ["loss", "loss_scores", "loss_pooled"]
    assert titles["Temperature"] == ["temperature", "attention_temperature"]
    assert titles["entropy"] == ["entropy"]
    sums = next(lines[0] for panel, lines in plots if panel.summed)
    assert sums.values.tolist() == [0.0] * 6 + [1.0] * 294


def test_values_that_are_no_numbers_leave_gaps() -> None:
    rows = [{"step": "1", "loss": "nan", "note": ""}, {"step": "2", "loss": "0.5", "note": "x"},
            {"step": "3", "loss": "inf", "note": ""}]  # fmt: skip
    (line,) = lines_of(rows)
    assert (line.name, line.steps.tolist(), line.values.tolist()) == ("loss", [2.0], [0.5])


def test_the_running_mean_is_that_of_pandas() -> None:
    values = np.random.default_rng(1).standard_normal(57)
    expected = pd.Series(values).rolling(9, center=True, min_periods=1).mean().to_numpy()
    np.testing.assert_allclose(running_mean(values, 4), expected, atol=1e-12)
    np.testing.assert_allclose(running_mean(values[:3], 10), values[:3].mean())


def test_gradients_of_zero_do_not_break_a_logarithmic_axis(run: Path) -> None:
    (run / "metrics.csv").write_text("step,epoch,loss,images_per_s,gradient_norm\n1,0,1,5,0\n2,0,1,5,3\n")
    draw(run)


def test_one_step_is_enough_and_an_old_run_without_a_configuration_too(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,epoch,loss,images_per_s,zero_shot_auroc\n1,0,3.5,10,\n")
    facts = draw(tmp_path)
    assert facts["loss"] == 3.5
    assert "Starts" not in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("content", [None, "", "step,epoch,loss,images_per_s\n", "step,epoch,loss,images_per_s\n1,0"])
def test_a_run_without_a_step_is_refused_in_one_line(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "metrics.csv").write_text(content)
    with pytest.raises(DataError, match=r"no training run with a step in it") as error:
        draw(tmp_path)
    assert "\n" not in str(error.value)


def test_a_folder_that_cannot_be_written_is_told(run: Path) -> None:
    (run / "training.png").mkdir()
    with pytest.raises(DataError, match="the page cannot be written"):
        draw(run)


def test_lines_know_nothing_but_numbers() -> None:
    assert arrange([]) == []
    panels = arrange([Line("skipped", np.array([1.0]), np.array([0.0]))])
    assert panels == []


def test_it_needs_no_torch(run: Path) -> None:
    program = (
        f"import sys; from pathlib import Path; from vlp.train.watching.page import draw; draw(Path({str(run)!r})); "
    )
    program += "assert 'torch' not in sys.modules; assert 'matplotlib.pyplot' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
