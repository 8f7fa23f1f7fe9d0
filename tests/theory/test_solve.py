"""`python -m theory solve`: what it reads, what it refuses in one line, and what it says, against closed forms."""

import json

import numpy as np
import pytest

from theory.__main__ import main
from theory.solving import reading, report

# A cycle a > c > b > a of unequal margins, whose Nash is (4, 3, 4) / 11, and d, which loses to all.
NAMES = ("a", "b", "c", "d")
P = np.array([[0.5, 0.1, 0.8, 0.6], [0.9, 0.5, 0.1, 0.7], [0.2, 0.9, 0.5, 0.7], [0.4, 0.3, 0.3, 0.5]])
ROWS = [",".join(map(str, row)) for row in P]
FAST = ("--tau", "0.1")


@pytest.fixture
def place(tmp_path):
    """Writes a file and returns its path."""

    def write(name, content):
        path = tmp_path / name
        if isinstance(content, np.ndarray):
            np.save(path, content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write


def solved(capsys, *arguments):
    assert main(["solve", *map(str, arguments), "--json"]) == 0
    out = capsys.readouterr()
    assert out.err == ""
    return json.loads(out.out)


def refused(capsys, *arguments):
    """The one line of an error, after exit status 2."""
    assert main(["solve", *map(str, arguments)]) == 2
    out = capsys.readouterr()
    assert out.out == ""
    assert out.err.startswith("error: ") and out.err.count("\n") == 1 and "Traceback" not in out.err
    return out.err


# Reading


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("plain.csv", "\n".join(ROWS), False),
        ("header.csv", "a,b,c,d\n" + "\n".join(ROWS), True),
        ("column.csv", "\n".join(f"{n},{row}" for n, row in zip(NAMES, ROWS, strict=True)), True),
        ("both.csv", ",a,b,c,d\n" + "\n".join(f"{n},{row}" for n, row in zip(NAMES, ROWS, strict=True)), True),
        ("short.csv", "a,b,c,d\n" + "\n".join(f"{n},{row}" for n, row in zip(NAMES, ROWS, strict=True)), True),
        ("semi.csv", "# votes\n\n\ufeffname;a;b;c;d\n".replace("\ufeff", "") + "\n".join(
            f"{n};{row}".replace(",", ";") for n, row in zip(NAMES, ROWS, strict=True)), True),
        ("list.json", P.tolist(), False),
        ("names.json", {"names": NAMES, "preference": P.tolist()}, True),
        ("array.npy", P, False),
    ],
)  # fmt: skip
def test_every_layout_reads_the_same(place, name, content, named):
    table = reading.read(place(name, content))
    np.testing.assert_allclose(table.preference, P, atol=1e-15)
    assert table.names == (NAMES if named else ("1", "2", "3", "4"))
    assert table.data["kind"] == "preferences"


def test_numeric_names_in_both_margins(place):
    text = ",7,8,9,10\n" + "\n".join(f"{n},{row}" for n, row in zip((7, 8, 9, 10), ROWS, strict=True))
    assert reading.read(place("ids.csv", text)).names == ("7", "8", "9", "10")


def test_places_as_names(place):
    columns = reading.read(place("columns.csv", "0,1,2,3\n" + "\n".join(ROWS)))
    assert columns.names == ("0", "1", "2", "3")
    rows = reading.read(place("rows.csv", "\n".join(f"{i + 1},{row}" for i, row in enumerate(ROWS))))
    assert rows.names == ("1", "2", "3", "4")
    np.testing.assert_allclose(rows.preference, P, atol=1e-15)


def test_counts_with_each_smoothing(place):
    wins = {"names": ["x", "y", "z"], "wins": [[0, 7, 0], [3, 0, 0], [0, 0, 0]]}
    path = place("wins.json", wins)
    for rule, expected in (("laplace", 8 / 12), ("jeffreys", 7.5 / 11), ("none", 0.7), ("3", 10 / 16)):
        table = reading.read(path, smoothing=rule)
        assert table.preference[0, 1] == pytest.approx(expected, abs=1e-15)
        assert table.preference[1, 0] == pytest.approx(1 - expected, abs=1e-15)
        assert (table.preference[2] == 0.5).all() and (table.preference[:, 2] == 0.5).all()
        assert table.data["unplayed_pairs"] == 2 and table.data["matches"] == 10
    assert "Jeffreys smoothing, 0.5" in " ".join(reading.read(path, smoothing="jeffreys").notes)
    assert "no smoothing" in " ".join(reading.read(path, smoothing="none").notes)
    assert "unplayed pairs: 2 of 3, taken as 1/2" in reading.read(path).notes


def test_counts_are_detected_or_said(place):
    detected = reading.read(place("n.npy", np.array([[0, 7], [3, 0]])))
    assert "integers above 1" in detected.notes[0] and detected.preference[0, 1] == pytest.approx(8 / 12)
    few = place("few.npy", np.array([[0, 1], [1, 0]]))
    assert reading.read(few, counts=True).preference[0, 1] == 0.5
    percent = reading.read(place("percent.csv", "50,60\n40,50\n"))
    assert "percentages" in percent.notes[-1]


def test_one_match_a_row(place):
    text = "winner,loser\n" + "x,y\n" * 3 + "y,x\n" + "z,x\n"
    table = reading.read(place("matches.csv", text), smoothing="none")
    assert table.names == ("x", "y", "z")
    np.testing.assert_allclose(table.preference, [[0.5, 0.75, 0], [0.25, 0.5, 0.5], [1, 0.5, 0.5]])
    counted = reading.read(place("counted.csv", "winner,loser,count\nx,y,3\ny,x,1\nz,x,1\n"), smoothing="none")
    np.testing.assert_array_equal(counted.preference, table.preference)


def test_the_diagonal_is_not_read_and_said(place):
    table = reading.read(place("zero.csv", "0,.9\n.1,0\n"))
    assert table.preference[0, 0] == 0.5 and "the file has 0 there" in " ".join(table.notes)
    blank = reading.read(place("blank.csv", ",x,y\nx,-,.9\ny,.1,\n"))
    np.testing.assert_allclose(blank.preference, [[0.5, 0.9], [0.1, 0.5]], atol=1e-15)


def test_a_small_violation_is_said_and_a_large_one_refused(place, capsys):
    small = reading.read(place("small.csv", ",x,y\nx,.5,.33\ny,.66,.5\n"))
    assert small.data["antisymmetry"] == {"largest": pytest.approx(0.01), "at": ["x", "y"], "symmetrised": True}
    assert small.preference[0, 1] == pytest.approx(0.335) and small.preference[1, 0] == pytest.approx(0.665)
    large = place("large.csv", ",x,y\nx,.5,.8\ny,.3,.5\n")
    line = refused(capsys, large)
    assert "P(x beats y) + P(y beats x) = 0.8 + 0.3, off 1 by 0.1" in line and "--symmetrise" in line
    assert reading.read(large, symmetrise=True).preference[0, 1] == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("x.txt", "1", "must end in one of .csv, .json, .npy"),
        ("empty.csv", "", "is empty"),
        ("blank.csv", "\n\n", "has no rows"),
        ("word.csv", ".5,.6\n.4,hello\n.1,.2\n", "not a number"),
        ("wide.csv", ".5,.6,.7\n.4,.5,.1\n", "must hold a square matrix, got 2 rows and 3 columns"),
        ("tall.csv", ".5,.6\n.4,.5\n.3,.1\n", "must hold a square matrix, got 3 rows and 2 columns"),
        ("ragged.csv", ".5,.6\n.4\n", "1 numbers in row"),
        ("nan.csv", ".5,nan\n.4,.5\n", "has nan at row '1', column '2'"),
        ("hole.csv", ",x,y\nx,.5,\ny,.4,.5\n", "has nothing at row 'x', column 'y'"),
        ("large.csv", ".5,1.5\n-.5,.5\n", "allowed are probabilities"),
        ("one.csv", "0.5\n", "at least two actions"),
        ("twice.csv", "x,x\n.5,.6\n.4,.5\n", "'x' twice"),
        ("order.csv", ",x,y\ny,.5,.6\nx,.4,.5\n", "same order: 'x' and 'y'"),
        ("header.csv", "x,y\n", "a header and no rows"),
        ("match.csv", "winner,loser,count\nx,y,many\n", "count 'many' in row 2"),
        ("self.csv", "winner,loser\nx,x\n", "no two names in row 2"),
        ("bad.json", "[[.5", "is not JSON"),
        ("key.json", {"matrix": [[0.5]]}, 'the key "preference"'),
        ("flat.json", [0.5, 0.5], "a list of rows"),
        ("names.json", {"names": ["x"], "preference": [[0.5, 0.5], [0.5, 0.5]]}, "1 names for 2 rows"),
        ("text.npy", "not an array", "numpy.load"),
        ("cube.npy", np.zeros((2, 2, 2)), "must hold a matrix"),
        ("complex.npy", np.zeros((2, 2), complex), "real numbers"),
        ("minus.json", {"wins": [[0, -3], [4, 0]]}, "allowed are counts"),
    ],
)
def test_bad_files_get_one_line(place, capsys, name, content, match):
    assert match in refused(capsys, place(name, content))


def test_files_that_are_not_there_and_bytes_that_are_not_text(tmp_path, capsys):
    assert "does not exist" in refused(capsys, tmp_path / "no.csv")
    (tmp_path / "folder.csv").mkdir()
    assert "is a folder" in refused(capsys, tmp_path / "folder.csv")
    for name in ("bytes.csv", "bytes.json", "bytes.npy"):
        (tmp_path / name).write_bytes(b"\xff\xfe\x00\x01\x9f")
        assert name in refused(capsys, tmp_path / name)


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        (["--policy", "a=0.5,e=0.5"], "names 'e', which is no action"),
        (["--policy", "a=0.5"], "must sum to 1, got 0.5"),
        (["--policy", "a=1.5,b=-0.5"], "probabilities >= 0, got -0.5"),
        (["--policy", "a=half,b=0.5"], "takes probabilities, got 'half'"),
        (["--policy", "a"], "must end in one of"),
        (["--ref", "none.json"], "none.json does not exist"),
        (["--smoothing", "some"], "--smoothing must be one of"),
        (["--figure", "x.bmp"], "--figure must end in one of"),
        (["--figure", "no/such/folder/x.png"], "does not exist"),
    ],
)
def test_bad_flags_get_one_line(place, capsys, flags, match):
    assert match in refused(capsys, place("both.json", {"names": NAMES, "preference": P.tolist()}), *flags)


@pytest.mark.parametrize("text", ["0", "-1", "x", "", "nan", "inf"])
def test_a_temperature_is_positive(place, capsys, text):
    assert main(["solve", str(place("p.npy", P)), f"--tau={text}"]) == 2
    assert "--tau: must be numbers > 0" in capsys.readouterr().err


def test_debug_shows_where(tmp_path, capsys):
    assert main(["solve", str(tmp_path / "no.csv"), "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_policies_from_files_and_fractions(place):
    want = [0.25, 0.75, 0, 0]
    for text in (
        "a=1/4,b=3/4",
        place("p.json", {"a": 0.25, "b": "3/4"}),
        place("q.json", want),
        place("p.csv", "action,probability\na,0.25\nb,0.75\n"),
        place("q.csv", "0.25,0.75,0,0\n"),
        place("p.npy", np.array(want)),
    ):
        np.testing.assert_allclose(reading.policy("--policy", str(text), NAMES), want)
    with pytest.raises(reading.SolveError, match="4 probabilities"):
        reading.policy("--policy", str(place("short.json", [0.5, 0.5])), NAMES)


# Solving


def test_winners_equilibria_and_certificates(place, capsys):
    path = place("p.json", {"names": NAMES, "preference": P.tolist()})
    found = solved(capsys, path, *FAST, "--policy", "a=1", "--policy", "uniform")
    limit = list(found["limit"]["policy"].values())
    np.testing.assert_allclose(limit, np.array([4, 3, 4, 0]) / 11, atol=1e-12)  # by hand: (b, c, a) / (a + b + c)
    np.testing.assert_allclose(list(found["von_neumann_winner"]["policy"].values()), limit, atol=1e-9)
    assert found["limit"]["unique"] and not found["limit"]["lp_vertex_differs"]
    assert found["limit"]["certified"] and found["von_neumann_winner"]["certified"]
    assert found["borda"]["winners"] == ["c"] and found["borda"]["scores"]["c"] == pytest.approx(0.6)
    assert found["copeland"]["winners"] == ["a", "b", "c"]
    assert found["condorcet_winner"] is None
    assert found["smith_set"] == ["a", "b", "c"]
    assert found["cycles"]["three_cycles"] == 1
    ring = found["cycles"]["example"]
    assert ring in (["a", "c", "b"], ["c", "b", "a"], ["b", "a", "c"])
    assert sorted(found["cycles"]["win_rates"]) == [0.8, 0.9, 0.9]
    (row,) = found["regularised"]
    policy = np.array(list(row["policy"].values()))
    response = np.exp(P @ policy / 0.1)
    np.testing.assert_allclose(policy, response / response.sum(), atol=1e-12)
    assert row["certified"] and row["duality_gap"] < 1e-15 and row["residual"] < 1e-10
    pure, uniform = found["policies"]
    # Against a alone b wins 0.9; the regularised gap is 2 tau KL(a || BR(a)) = -2 tau log BR(a).
    assert pure["original_gap"] == pytest.approx(0.8) and pure["best_reply"] == "b"
    reply = np.exp(P[:, 0] / 0.1)
    assert pure["regularised"][0]["duality_gap"] == pytest.approx(-0.2 * np.log(reply[0] / reply.sum()), rel=1e-9)
    assert pure["kl_to_reference"] == pytest.approx(np.log(4)) and pure["entropy"] == 0
    assert uniform["original_gap"] == pytest.approx(2 * (P.mean(1).max() - 0.5))
    assert uniform["kl_to_reference"] == pytest.approx(0, abs=1e-12)
    assert found["limit"]["followed_to"]["tau"] == pytest.approx(1e-6)
    assert found["limit"]["followed_to"]["distance"] < 1e-5


def test_several_equilibria_and_what_is_picked(place, capsys):
    rps = np.array([[0.5, 1, 0], [0, 0.5, 1], [1, 0, 0.5]])
    rocks = place("rocks.npy", rps[np.ix_([0, 0, 1, 2], [0, 0, 1, 2])])
    found = solved(capsys, rocks, *FAST)["limit"]
    np.testing.assert_allclose(list(found["policy"].values()), [1 / 6, 1 / 6, 1 / 3, 1 / 3], atol=1e-9)
    assert (found["dimension"], found["unique"], found["lp_vertex_differs"]) == (1, False, True)
    assert found["rule"] == "most entropy of all equilibria"
    assert found["entropy"] == pytest.approx((np.log(6) + 2 * np.log(3)) / 3)
    assert found["followed_to"]["distance"] < 1e-5
    skewed = solved(capsys, rocks, *FAST, "--ref", "1=0.1,2=0.3,3=0.3,4=0.3")["limit"]
    np.testing.assert_allclose(list(skewed["policy"].values()), [1 / 12, 3 / 12, 1 / 3, 1 / 3], atol=1e-9)
    assert skewed["rule"].startswith("least KL")
    assert main(["solve", str(rocks), *FAST]) == 0
    out = capsys.readouterr().out
    assert "several equilibria (a polytope of dimension 1); picked is the one of most entropy" in out
    assert "its vertex is another equilibrium: 0.167 away" in out


def test_ties_everywhere(place, capsys):
    found = solved(capsys, place("ties.npy", np.full((4, 4), 0.5)), *FAST)
    assert list(found["limit"]["policy"].values()) == [0.25] * 4
    assert found["limit"]["dimension"] == 3 and found["limit"]["certified"]
    assert found["cycles"]["acyclic"] and found["condorcet_winner"] is None and len(found["smith_set"]) == 4


def test_a_reference_that_leaves_one_out(place, capsys):
    path = place("p.json", {"names": NAMES, "preference": P.tolist()})
    found = solved(capsys, path, *FAST, "--ref", "a=1/2,b=1/4,d=1/4", "--policy", "c=1")
    assert found["limit"]["policy"] == {"a": 0, "b": 1, "c": 0, "d": 0}  # b beats a and d
    assert found["regularised"][0]["policy"]["c"] == 0
    assert found["policies"][0]["regularised"][0]["duality_gap"] == "inf"
    assert found["von_neumann_winner"]["policy"]["c"] == pytest.approx(4 / 11)  # of the whole game


def test_a_condorcet_winner_of_counts(place, capsys):
    path = place("wins.csv", "winner,loser,count\nx,y,9\ny,x,1\nx,z,6\nz,x,4\ny,z,5\nz,y,5\nx,w,9\ny,w,9\nz,w,9\n")
    found = solved(capsys, path, *FAST)
    assert found["condorcet_winner"] == "x" and found["limit"]["policy"]["x"] == 1
    assert found["smith_set"] == ["x"] and found["cycles"]["acyclic"]
    assert found["data"]["smoothing"]["pseudo_count"] == 1


def test_without_the_linear_program(place, capsys):
    found = solved(capsys, place("p.npy", P), *FAST, "--no-lp")
    assert found["von_neumann_winner"]["by"].startswith("interior point")
    assert found["von_neumann_winner"]["original_gap"] < 1e-12
    assert found["limit"]["lp_vertex_differs"] is None
    part = solved(capsys, place("p.npy", P), *FAST, "--no-lp", "--ref", "1=0.5,2=0.5")
    assert part["limit"]["policy"]["2"] == 1  # of the two in the reference's support
    np.testing.assert_allclose(list(part["von_neumann_winner"]["policy"].values()), np.array([4, 3, 4, 0]) / 11)


@pytest.mark.slow
def test_the_figure_and_the_folder(place, tmp_path, capsys):
    path = place("p.npy", P)
    for suffix in ("png", "svg"):
        target = tmp_path / f"figure.{suffix}"
        assert main(["solve", str(path), *FAST, "--figure", str(target), "--out", str(tmp_path / "out")]) == 0
        assert target.stat().st_size > 10_000
    assert json.loads((tmp_path / "out" / "p.json").read_text())["num_actions"] == 4
    assert (tmp_path / "out" / "p.png").stat().st_size > 10_000
    out = capsys.readouterr().out
    assert "followed  to tau = 1e-06" in out and str(tmp_path / "out" / "p.json") in out


def test_help_has_examples(capsys):
    assert main(["solve", "--help"]) == 0
    out = capsys.readouterr().out
    assert "python -m theory solve votes.csv" in out and "winner,loser" in out


@pytest.mark.slow
def test_a_leaderboard_of_five_hundred():
    rng = np.random.default_rng(0)
    skill = rng.normal(size=500)
    played = np.triu(rng.poisson(3.0, size=(500, 500)), 1)
    chance = 1 / (1 + np.exp(skill[None] - skill[:, None] + rng.normal(size=(500, 500))))
    won = rng.binomial(played, chance)
    wins = (won + (played - won).T).astype(float)
    rate = np.where(wins + wins.T > 0, (wins + 1) / (wins + wins.T + 2), 0.5)
    table = reading.Table(tuple(map(str, range(500))), rate, {}, ())
    found = report.solve(table, [0.1, 0.01])
    assert all(row["certified"] for row in found["regularised"])
    for answer in (found["limit"], found["von_neumann_winner"]):
        policy = np.array(list(answer["policy"].values()))
        assert 2 * ((rate - 0.5) @ policy).max() < 1e-9
    assert found["seconds"] < 120


def test_tables_whose_first_row_is_their_first_column(tmp_path, capsys):
    # Ties everywhere, and counts that are symmetric at the edge: numbers, not names.
    ties, wins = tmp_path / "ties.csv", tmp_path / "wins.csv"
    ties.write_text("0.5,0.5,0.5\n0.5,0.5,0.5\n0.5,0.5,0.5\n")
    wins.write_text("0,5,3\n5,0,2\n3,4,0\n")
    for path in (ties, wins):
        assert main(["solve", str(path), "--tau", "1", "--json", "--no-lp"]) == 0
        assert len(json.loads(capsys.readouterr().out)["names"]) == 3
