"""Writes docs/class/handout.html, a sheet to print on both sides of A4.

    python -m plots.handout

The front has the skeleton, the map, symptoms and levers: the equations are grpo.py's, and both
tables are the README's. The back has the three exercises of a lesson, from docs/exercises.md, with
room to predict.
"""

if __package__ != "plots":
    raise SystemExit("run it from the repository's folder: python -m plots.handout")

import argparse
import html

import common
from compose.reader import equations, source_of
from plots.markdown import MARKDOWN, section, table_of

PAGE = common.HERE / "docs/class/handout.html"
QUESTIONS = {  # axis: the question that methods answer differently
    "granularity": "Does each token have an importance ratio, or does a whole completion have one?",
    "clip width": "How far may the policy move on one rollout, and what happens beyond that?",
    "length + std": "What is the sum of token losses divided by, and what the advantage?",
    "KL": "What keeps the policy near its start?",
    "advantage": "If there are several rewards, what is compared within a group?",
    "sampling": "Which groups does the policy learn from?",
    "sampler": "Which policy drew the tokens, and does the update know?",
}
EXERCISES = {  # those of a lesson, in its order: what is to be predicted
    "4. KL": ("kl_ref", "held-out accuracy"),
    "1. Granularity": ("ratio_spread", "held-out accuracy"),
    "16. Find the fault": ("the number that is wrong", "the line"),
}
STYLE = """
@page { size: A4; margin: 10mm 12mm }
body { font: 9.5pt/1.35 system-ui, sans-serif; color: #000; background: #fff; max-width: 186mm;
    margin: 0 auto; padding: 8px }
@media print { body { padding: 0 } }
h1 { font-size: 15pt; margin: 0 0 2mm } h2 { font-size: 11pt; margin: 2.5mm 0 .5mm }
p { margin: 1mm 0 } pre, code { font: 8pt/1.3 ui-monospace, monospace }
pre { margin: 1mm 0; overflow-x: auto; border-left: 2pt solid #0072b2; padding-left: 3mm }
table { border-collapse: collapse; width: 100%; font-size: 8.5pt }
th, td { border-bottom: .5pt solid #999; padding: .2mm 1.5mm .2mm 0; text-align: left;
    vertical-align: top }
.wide { overflow-x: auto } .back { break-before: page }
.back h2 { margin-top: 4mm } .back p { margin: 1.5mm 0 }
.predict { display: flex; gap: 3mm; margin: 3mm 0 !important }
.predict i { flex: 1; border-bottom: .5pt solid #000; height: 5mm }
"""


def table(rows):
    """The HTML of a table, its first row the head."""
    head, *body = rows
    lines = [f"<tr><th>{'<th>'.join(head)}"]
    lines += [f"<tr><td>{'<td>'.join(row)}" for row in body]
    return "\n".join(["<div class=wide><table>", *lines, "</table></div>"])


def exercise(heading):
    """The HTML of an exercise, from its prediction up to what there is to learn."""
    task = section("docs/exercises.md", heading).partition("*Learnt.*")[0]
    lines = [f"<h2>Exercise {heading}</h2>", MARKDOWN.render(task)]
    for what in EXERCISES[heading]:
        lines.append(f"<p class=predict><b>{what}</b> I predict: <i></i> It was: <i></i>")
    return "\n".join(lines)


def handout():
    """The text of the page."""
    formulas = html.escape("\n".join(equations(source_of("grpo"))), quote=False)
    parts = [
        "<!doctype html>",
        "<html lang=en><meta charset=utf-8><meta name=viewport content=width=device-width>",
        f"<title>The GRPO family on one sheet</title><style>{STYLE}</style>",
        "<h1>The GRPO family on one sheet</h1>",
        "<p>GRPO needs no critic, because a group of completions is its own baseline, and it "
        "updates with PPO's clipped loss. For each prompt sample a group of G completions:",
        f"<pre>{formulas}</pre>",
        "<p>R is the reward, A the advantage and r the importance ratio. pi is the policy being "
        "updated, pi_old the policy before this step's updates, and pi_ref the frozen initial one. "
        "|o| is the number of tokens of a completion, e the half-width of the clip, and beta the "
        "weight of the KL.",
        "<h2>Seven axes</h2>",
        table([["axis", "the question"], *([f"<b>{a}</b>", q] for a, q in QUESTIONS.items())]),
        "<h2>Who moves what</h2>",
        "<p>= means as in grpo.py. The last column counts the lines of code that differ.",
        table(table_of("README.md", "The map")),
        "<h2>Which lever for which symptom</h2>",
        table(table_of("README.md", "Which lever for which symptom")),
        "<h2>At the keyboard</h2>",
        "<pre>git diff --no-index grpo.py gspo.py             shows what a method is",
        "python grpo.py                                  trains it in two minutes",
        "python -m tools.diagnose runs/grpo-seed1        says what a run was, and what to try",
        "python -m tools.compare runs/a runs/b           compares two runs, number by number",
        "python -m compose dapo gspo -o mine.py          writes two methods as one script</pre>",
        "<div class=back>",
        "<h1>Predict, change, run, compare</h1>",
        "<p>Write your number down before you run. Start each exercise from a fresh copy, "
        "<code>cp grpo.py exercise.py</code>, and add <code>--overwrite</code> for a second try.",
        *map(exercise, EXERCISES),
        "</div>",
    ]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    PAGE.write_text(handout(), encoding="utf-8")
    print(f"open {PAGE} in a browser and print it on both sides")
