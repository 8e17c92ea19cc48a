"""Grids of ablations: which cells there are, that each is done once, that kills are survived."""

import json
import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
from typer.testing import CliRunner

from bertft import ablation, cli
from bertft.ablation import Ablation, Cell, FailedCellsError, ablate, grid
from bertft.cli import app
from bertft.files import locked, replacing
from bertft.grids import extend_plan, taken
from bertft.progress import Display
from tests.task_files import write_all

QUICK = {"epochs": 1, "batch_size": 8, "lr": 1e-3, "max_length": 48}


@pytest.fixture
def files(tmp_path):
    (tmp_path / "data").mkdir()
    return write_all(tmp_path / "data")


@pytest.fixture
def base(checkpoint):
    return checkpoint("base")


def run(base, files, out, task="mnli", **options):
    return ablate(task, base, *files[task], out, **{**QUICK, **options})


def test_the_full_model_is_one_cell():
    cells = grid(6, freeze=[0, 2, 6], keep=[2, 6], seeds=2)
    assert cells == [
        Cell(seed, *which)
        for seed in (0, 1)
        for which in (("full", 6), ("freeze", 2), ("freeze", 6), ("keep", 2))
    ]
    assert len({cell.name("mnli") for cell in cells}) == len(cells)
    assert grid(6, [], [], [7]) == [Cell(7, "full", 6)]


@pytest.mark.parametrize(
    ("freeze", "keep", "seeds", "told"),
    [
        ([7], [], 1, r"freeze must be in 0\.\.6 for a model of 6 blocks, got 7"),
        ([-1], [], 1, r"freeze must be in 0\.\.6"),
        ([], [0], 1, r"keep must be in 1\.\.6 for a model of 6 blocks, got 0"),
        ([], [], 0, r"seeds must be one or more"),
        ([], [], [1, 1], r"seeds must be one or more, each once, got \[1, 1\]"),
    ],
)
def test_impossible_grids(freeze, keep, seeds, told):
    with pytest.raises(ValueError, match=told):
        grid(6, freeze, keep, seeds)


@pytest.mark.parametrize("wrong", [{"freeze": [True]}, {"keep": [1.5]}, {"seeds": True}])
def test_numbers_of_a_grid_are_whole(wrong):
    [name] = wrong
    with pytest.raises(TypeError, match=rf"^\[ablate\] {name} must be an integer, got "):
        grid(6, **{"freeze": [], "keep": [], "seeds": 1} | wrong)


def test_a_grid_is_a_table_and_is_done_once(base, files, tmp_path, monkeypatch):
    out = tmp_path / "out"
    done = run(base, files, out, freeze=[0, 2], keep=[1, 3], seeds=2)
    assert repr(done) == "Ablation(mnli: 6 of 6 cells done)"
    table = done.table
    assert set(map(tuple, table[["ablation", "layers", "seed"]].to_numpy())) == {
        (*which, seed) for which in (("full", 3), ("freeze", 2), ("keep", 1)) for seed in (0, 1)
    }
    assert (table["depth"] == 3).all()
    summary = done.summary.set_index(["ablation", "layers"])
    full = table[table["ablation"] == "full"]["value"]
    assert summary.loc[("freeze", 0), "mean"] == pytest.approx(full.mean())
    assert summary.loc[("keep", 3), "mean"] == pytest.approx(full.mean())
    # No model was asked to stay.
    assert not list(out.glob("cells/*/*.safetensors"))
    monkeypatch.setattr(ablation, "finetune", None)
    again = run(base, files, out, freeze=[0, 2], keep=[1, 3], seeds=2)
    pd.testing.assert_frame_equal(again.table, table)


def test_cells_are_the_runs_of_finetune(base, files, tmp_path):
    from bertft.finetuning import finetune

    done = run(base, files, tmp_path / "out", freeze=[2], keep=[2], save_models=True)
    for which, options in (("freeze2", {"freeze": 2}), ("keep2", {"keep": 2}), ("full", {})):
        alone = finetune("mnli", base, *files["mnli"], tmp_path / which, **QUICK, **options)
        cell = tmp_path / "out" / "cells" / f"mnli-{which}-seed0"
        assert (cell / "model.safetensors").read_bytes() == (
            tmp_path / which / "model.safetensors"
        ).read_bytes()
        name = which.rstrip("2")
        value = done.table[done.table["ablation"] == name]["value"].item()
        assert value == alone.table["value"].item()


def test_a_grid_grows_and_tasks_share_a_folder(base, files, tmp_path):
    out = tmp_path / "out"
    run(base, files, out, keep=[1])
    run(base, files, out, keep=[2])
    done = run(base, files, out, task="depparse")
    assert done.provenance["cells"] == {"done": 4, "total": 4}
    assert set(done.provenance["tasks"]) == {"mnli", "depparse"}
    report = done.write_report().read_text()
    assert "4 cells" in report
    assert len(pd.read_csv(out / "results.csv")) == len(done.table)


def test_cells_of_another_recipe_are_refused(base, files, tmp_path, checkpoint):
    out = tmp_path / "out"
    run(base, files, out)
    with pytest.raises(ValueError, match=r"out must hold cells of the same recipe, got .*0\.001"):
        run(base, files, out, lr=2e-3)
    with pytest.raises(ValueError, match=r"out must hold cells of the same limit, got None in"):
        run(base, files, out, limit=5)
    # Neither where a model or a cache lies nor what it is called changes a result.
    run(base / ".." / base.name, files, out, cache_memory_gib=0)
    other = checkpoint("other", seed=1)
    with pytest.raises(ValueError, match=r"out must hold cells of the same model, got"):
        run(other, files, out)


def test_data_that_changed_are_refused(base, files, tmp_path):
    out = tmp_path / "out"
    run(base, files, out)
    train = files["mnli"][0]
    train.write_text(train.read_text().replace("cat", "dog"))
    with pytest.raises(ValueError, match=r"out must hold cells of the same train, got"):
        run(base, files, out, freeze=[1])


def test_a_first_mistake_spoils_nothing(base, files, tmp_path):
    out = tmp_path / "out"
    train, dev = files["mnli"]
    with pytest.raises(FileNotFoundError):
        ablate("mnli", base, train.with_name("typo.jsonl"), dev, out, **QUICK)
    assert run(base, files, out, freeze=[1]).provenance["cells"] == {"done": 2, "total": 2}


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({"epochz": 1}, TypeError, "settings must be among .*, got 'epochz'"),
        ({"device": "cuda"}, RuntimeError, "device must be available, got 'cuda' without CUDA"),
        ({"dev_every": 0}, ValueError, "dev_every must be at least 1, got 0"),
        ({"max_length": 600}, ValueError, "max_length must be at most the 64 tokens"),
        ({"max_length": 4}, ValueError, "max_length must leave room for text"),
        (
            {"freeze": [1], "cache_memory_gib": 0, "cache_disk_gib": 0},
            ValueError,
            r"prefix cache must fit 0 GiB .* raise cache_disk_gib \(--cache-disk 1\), or",
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_mistakes_are_told_before_the_first_cell(
    options, error, told, base, files, tmp_path, monkeypatch
):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(ablation, "finetune", None)
    with pytest.raises(error, match=told):
        run(base, files, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_blocks_that_cannot_be_frozen_are_told_before_the_first_cell(checkpoint, files, tmp_path):
    shared = checkpoint("shared", kind="albert")
    with pytest.raises(ValueError, match="blocks must have weights of their own, got k = 1"):
        run(shared, files, tmp_path / "out", freeze=[1, 3])
    assert not (tmp_path / "out").exists()


def test_a_prefix_without_room_may_run_in_every_step(base, files, tmp_path):
    out = tmp_path / "out"
    none = {"cache_memory_gib": 0, "cache_disk_gib": 0}
    # What freezes nothing needs no room.
    run(base, files, out, keep=[1], **none)
    with pytest.raises(ValueError, match="prefix cache must fit"):
        run(base, files, out, freeze=[1], **none)
    done = run(base, files, out, freeze=[1], prefix_cache=False)
    assert done.provenance["cells"] == {"done": 3, "total": 3}
    assert done.provenance["tasks"]["mnli"]["frozen prefix"]["mnli-freeze1-seed0"] == "off"
    assert "mnli-freeze1-seed0</dt>" in done.write_report().read_text()
    with pytest.raises(ValueError, match=r"same prefix_cache, got False in .* has True"):
        run(base, files, out, freeze=[2])


def test_a_plan_without_cells_that_are_done_gives_way(base, files, tmp_path, monkeypatch):
    out, cell = tmp_path / "out", "mnli-full-seed0"
    with monkeypatch.context() as patch:
        patch.setattr("bertft.finetuning.runs.Fitting.score", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(base, files, out, freeze=[1], keep=[2], lr=0.5)
    assert (out / "cells" / cell / "checkpoints" / "checkpoint-3").is_dir()
    with locked(out / "locks" / cell, wait=True), pytest.raises(ValueError, match="same recipe"):
        run(base, files, out)
    assert repr(run(base, files, out, keep=[1])) == "Ablation(mnli: 2 of 2 cells done)"
    with pytest.raises(ValueError, match="same recipe"):
        run(base, files, out, keep=[1], lr=0.5)


def interrupt(*args, **options):
    raise KeyboardInterrupt


def test_a_plan_whose_cells_failed_gives_way(base, files, tmp_path, checkpoint):
    out = tmp_path / "out"
    with pytest.raises(FailedCellsError, match="loss must be finite"):
        run(base, files, out, lr=1e30, clip=1e30, epochs=9)
    other = checkpoint("other", seed=1)
    done = run(other, files, out, task="depparse")
    assert repr(done) == "Ablation(depparse: 1 of 1 cells done)"
    assert done.provenance["model"] == str(other)
    assert not list((out / "failed").iterdir())


def test_a_plan_that_another_process_replaced_is_not_gone_on_with(tmp_path):
    plan = {"commands": [], "same": {"model": "a", "recipe": 1}}
    extend_plan(tmp_path, "mnli", plan, cells := grid(2, [], [], 1))
    going = taken(tmp_path, "mnli", plan["same"], cells, Display(False))
    extend_plan(tmp_path, "mnli", {**plan, "same": {"model": "a", "recipe": 2}}, cells)
    with pytest.raises(ValueError, match=r"same recipe, got 2 in .* where this run has 1; pass"):
        next(going)


def failing(monkeypatch, which, error):
    """Let `finetune` raise for the cells that have `which` in their name; return the ones begun."""
    real, begun = ablation.finetune, []

    def finetune(*args, **options):
        begun.append(args[4].name)
        if which in args[4].name:
            raise error
        return real(*args, **options)

    monkeypatch.setattr(ablation, "finetune", finetune)
    return begun


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RuntimeError("[finetune] loss must be\nfinite"), "[finetune] loss must be finite"),
        (AttributeError("no such thing"), "AttributeError: no such thing"),
        (PermissionError(13, "Permission denied", "/a/b"), "/a/b: Permission denied"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_cell_that_fails_does_not_end_the_sweep(error, told, base, files, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        begun = failing(patch, "freeze1", error)
        with pytest.raises(FailedCellsError) as raised:
            run(base, files, out, freeze=[1, 2], keep=[1])
    assert begun == [f"mnli-{which}-seed0" for which in ("full", "freeze1", "freeze2", "keep1")]
    assert f"got 1 that failed, first mnli-freeze1-seed0: {told};" in str(raised.value)
    found = raised.value.ablation
    assert repr(found) == "Ablation(mnli: 3 of 4 cells done, 1 failed)"
    assert found.provenance["failed"] == {"mnli-freeze1-seed0": told}
    assert f"mnli-freeze1-seed0 failed: {told}" in command("report", out).output
    assert f"<li>mnli-freeze1-seed0: {told}</li>" in (out / "report.html").read_text()
    # The text of a defect has its traceback beside it.
    trace = (out / "failed" / "mnli-freeze1-seed0.txt").read_text()
    assert trace.startswith(f"{told}\n\nTraceback")
    again = run(base, files, out, freeze=[1, 2], keep=[1])
    assert repr(again) == "Ablation(mnli: 4 of 4 cells done)"
    assert not list((out / "failed").iterdir())


def test_a_cell_that_failed_here_and_was_done_elsewhere_is_done(base, files, tmp_path, monkeypatch):
    real = ablation.finetune

    def finetune(task, model, train, dev, folder, **options):
        if folder.name == "mnli-full-seed0":
            raise RuntimeError("[finetune] disk must have room, got none; free some.")
        # By now another process has done it.
        real(task, model, train, dev, folder.with_name("mnli-full-seed0"), keep=None, **QUICK)
        return real(task, model, train, dev, folder, **options)

    monkeypatch.setattr(ablation, "finetune", finetune)
    done = run(base, files, tmp_path / "out", keep=[1])
    assert repr(done) == "Ablation(mnli: 2 of 2 cells done)"


def test_a_sweep_with_failed_cells_ends_in_an_error(base, files, tmp_path, monkeypatch, capsys):
    out, (train, dev) = tmp_path / "out", files["mnli"]
    failing(monkeypatch, "seed0", RuntimeError("[finetune] loss must be finite, got nan; stop."))
    argv = ["bertft", "ablate", "mnli", base, "--train", train, "--dev", dev, "--out", out]
    monkeypatch.setattr(sys, "argv", [*map(str, argv), "--keep", "1", "--epochs", "1"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    shown = capsys.readouterr()
    assert stop.value.code == 2
    assert "0 of 2 cells done" in shown.out
    assert shown.out.count("failed: [finetune] loss must be finite, got nan; stop.") >= 2
    assert shown.err.strip().splitlines()[-1] == (
        "bertft: [ablate] cells must all be done, got 2 that failed, first mnli-full-seed0: "
        "[finetune] loss must be finite, got nan; stop; run it again to try again."
    )


def test_an_interrupted_cell_ends_the_sweep(base, files, tmp_path, monkeypatch):
    out = tmp_path / "out"
    begun = failing(monkeypatch, "full", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        run(base, files, out, keep=[1])
    assert begun == ["mnli-full-seed0"]
    assert Ablation.load(out).provenance["failed"] == {}


def test_models_are_kept_for_all_cells_or_none(base, files, tmp_path):
    out = tmp_path / "out"
    run(base, files, out)
    with pytest.raises(ValueError, match=r"cells of the same save_models, got False in .* has Tru"):
        run(base, files, out, save_models=True)


def test_seeds_share_the_examples_that_are_drawn(base, files, tmp_path):
    out = tmp_path / "out"
    run(base, files, out, seeds=2, limit=9)
    records = [json.loads(path.read_text()) for path in out.glob("cells/*/provenance.json")]
    assert [record["train"]["examples"] for record in records] == [9, 9]
    assert len({record["train"]["fingerprint"] for record in records}) == 1


def test_options_that_belong_to_a_cell(base, files, tmp_path):
    with pytest.raises(TypeError, match="options must be the same for all cells, got 'seed'"):
        run(base, files, tmp_path / "out", seed=3)


def test_other_folders_are_not_written_to(base, files, tmp_path):
    with pytest.raises(FileExistsError, match=r"hold a grid, got 'config\.json' in"):
        run(base, files, base)


def test_a_folder_without_a_grid(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"folder must hold a grid of ablations, got .* ablat"
    ):
        Ablation.load(tmp_path)
    (tmp_path / "ablation.json").write_text("{")
    with pytest.raises(ValueError, match=r"ablation\.json must be JSON"):
        Ablation.load(tmp_path)


SCRIPT = """
import sys, bertft.ablation as a, bertft.finetuning.runs as runs
ran, real = [], a.finetune
def finetune(*args, **options):
    ran.append(args[4].name)
    return real(*args, **options)
a.finetune = finetune
a.ablate("mnli", *sys.argv[1:5], freeze=[1, 2, 3], keep=[1, 2], seeds=2,
         epochs={epochs}, batch_size=8, lr=1e-3, max_length=48)
print(*ran)
"""


def start(base, files, out, epochs=1):
    argv = [sys.executable, "-c", SCRIPT.format(epochs=epochs), str(base)]
    argv += [*map(str, files["mnli"]), str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=environment)


def test_processes_share_a_folder_and_a_killed_one_is_replaced(base, files, tmp_path):
    out = tmp_path / "out"
    first = start(base, files, out, epochs=3)
    deadline = time.monotonic() + 120
    while not list(out.glob("cells/*/checkpoints/checkpoint-*")):
        assert time.monotonic() < deadline
        assert first.poll() is None
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    others = [start(base, files, out, epochs=3) for _ in range(2)]
    ran = [process.communicate(timeout=240)[0].split() for process in others]
    assert [process.returncode for process in others] == [0, 0]
    found = Ablation.load(out)
    cells = [path.name for path in (out / "cells").iterdir()]
    assert found.provenance["cells"] == {"done": 12, "total": 12}
    assert len(cells) == 12
    # What the killed process finished is not done again, and nothing is done twice.
    assert len(ran[0] + ran[1]) == len({*ran[0], *ran[1]}) >= 11
    assert not list(out.glob("cells/*/checkpoints"))


def test_a_cell_killed_while_it_wrote_its_results(base, files, tmp_path, monkeypatch):
    out = tmp_path / "out"
    from bertft import results

    save = results.save_run

    def die(folder, *args, **options):
        (folder / f".{folder.name}.abc").mkdir()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(results, "save_run", die)
        with pytest.raises(KeyboardInterrupt):
            run(base, files, out)
    assert results.save_run is save
    run(base, files, out)
    cell = out / "cells" / "mnli-full-seed0"
    assert not list(cell.glob(".*"))
    assert json.loads((cell / "provenance.json").read_text())["times"]["steps"] == 3


def command(*argv):
    return CliRunner().invoke(app, [*map(str, argv)], catch_exceptions=True)


def test_commands(base, files, tmp_path, monkeypatch):
    train, dev = files["depparse"]
    monkeypatch.setattr(sys, "argv", ["/bin/bertft", "ablate", "a model"])
    out = tmp_path / "out"
    settings = ["--train", train, "--dev", dev, "--epochs", 1, "--batch-size", 8, "--limit", 16]
    done = command("ablate", "depparse", base, *settings, "--freeze", "0,2", "--out", out)
    assert done.exit_code == 0, done.output
    assert "2 of 2 cells done" in done.output
    assert (out / "report.html").is_file()
    again = command("report", out)
    assert "2 of 2 cells done" in again.output
    tuned = command("finetune", "depparse", base, *settings, "--out", tmp_path / "one")
    assert tuned.exit_code == 0, tuned.output
    last = tuned.output.strip().splitlines()[-1]
    assert last.startswith("depparse-dev: las ")
    assert "las" in command("report", tmp_path / "one").output
    for folder in (tmp_path / "one", out / "cells" / "depparse-full-seed0"):
        record = json.loads((folder / "provenance.json").read_text())
        assert record["command"] == "bertft ablate 'a model'"
    assert len(Ablation.load(out).provenance["tasks"]["depparse"]["commands"]) == 1
    bad = command("ablate", "depparse", base, *settings, "--keep", "one", "--out", out)
    assert isinstance(bad.exception, ValueError)
    assert "keep must be whole numbers joined by commas, got 'one'" in str(bad.exception)
    deep = command("ablate", "depparse", base, *settings, "--keep", "9", "--out", out)
    assert "keep must be in 1..3" in str(deep.exception)


def test_a_report_before_the_first_cell(base, files, tmp_path, monkeypatch):
    out = tmp_path / "out"

    def die(*args, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ablation, "finetune", die)
        with pytest.raises(KeyboardInterrupt):
            run(base, files, out)
    shown = command("report", out)
    assert shown.exit_code == 0
    assert "0 of 1 cells done" in shown.output


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (FileNotFoundError(2, "No such file or directory", "/a/b"), "/a/b: No such file or direct"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (OSError("[finetune] disk must have room; free some."), "[finetune] disk must have room;"),
    ],
    ids=["file", "no file", "ours"],
)
def test_errors_of_the_system_are_one_line(error, told, monkeypatch, capsys):
    def fail():
        raise error

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"bertft: {told}")


def test_defects_keep_their_traceback(monkeypatch):
    def fail():
        raise ValueError("too many values to unpack")

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(ValueError, match="too many values"):
        cli.main()


def test_files_that_cannot_be_written_are_named(tmp_path):
    with pytest.raises(OSError, match="No space left") as raised, replacing(tmp_path / "a.txt"):
        raise OSError(28, "No space left on device")
    assert raised.value.filename == str(tmp_path / "a.txt")
    ours = OSError("[x] disk must have room")
    with pytest.raises(OSError, match=r"^\[x\] disk must have room$"), replacing(tmp_path / "a"):
        raise ours
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("command", "left"),
    [
        (["finetune"], "go on from the last checkpoint with --resume"),
        (["ablate"], "run it again to go on where it stopped"),
        (["compare"], "nothing was written"),
        (["probe", "x", "--features-dtype", "float16"], "nothing was written"),
        (
            ["probe", "x", "--features=y"],
            "features that are captured stay",
        ),
        (
            ["probe", "x", "--features", "y"],
            "features that are captured stay",
        ),
    ],
)
def test_interrupted_commands_say_what_is_left(command, left, monkeypatch, capsys):
    from bertft import cli

    def interrupt():
        raise SystemExit(cli.INTERRUPTED)

    monkeypatch.setattr(cli, "app", interrupt)
    monkeypatch.setattr(sys, "argv", ["bertft", *command])
    with pytest.raises(SystemExit):
        cli.main()
    assert f"interrupted; {left}" in capsys.readouterr().err
