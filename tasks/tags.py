"""What a completion thinks and what it answers, by its tags. The prompt has opened <think>."""


def extract_answer(completion):
    """What the last <answer> after the first </think> encloses, or None if it is not closed."""
    _, _, conclusion = completion.partition("</think>")
    _, opened, answer = conclusion.rpartition("<answer>")
    answer, closed, _ = answer.partition("</answer>")
    return answer.strip() if opened and closed else None


def is_formatted(completion):
    """Whether it reads `thought</think> <answer>...</answer>` and nothing else."""
    conclusion = completion.partition("</think>")[2].strip()
    one_block = conclusion.startswith("<answer>") and conclusion.endswith("</answer>")
    tags = [completion.count(tag) for tag in ("<think>", "</think>", "<answer>", "</answer>")]
    return one_block and tags == [0, 1, 1, 1]
