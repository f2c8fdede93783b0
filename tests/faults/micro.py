"""Runs of a fraction of a second, each in a process of its own: what the fault harness is made of.

A process that has loaded everything forks; the copy runs a script as the command line would, and
can be killed, signalled or lied to without harm to the next. Needs os.fork: Linux or macOS.
"""

import dataclasses
import importlib
import os
import sys
import tempfile
import traceback

from runtime import session

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import common


def make_model(folder):
    """A random Llama of some thousand weights with the base model's tokenizer -> its folder."""
    _, tokenizer = common.load_model("base_model")
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=64,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            initializer_range=0.3,
        )
    )
    # One token stands for a sentence of the prompt. If it comes often, `brevity` tells completions
    # of six tokens apart, and every step has something to learn.
    longest = max(range(len(tokenizer)), key=lambda token: len(tokenizer.decode([token])))
    model.model.embed_tokens.weight.data[longest] *= 4
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a process ended: its exit status (negative: by that signal) and what it wrote."""

    status: int
    output: str
    errors: str

    def refusal(self):
        """The one line of a process that ended with a status of 1 or 2, or None."""
        lines = self.errors.splitlines()
        clean = self.status in (1, 2) and len(lines) == 1 and "Traceback" not in lines[0]
        return lines[0] if clean else None


class Started:
    """`python SCRIPT WORDS` as a fork of this process; prepare() is called in it first."""

    def __init__(self, script, words, prepare=None):
        module = importlib.import_module(script)
        self.files = [tempfile.TemporaryFile() for _ in range(2)]  # noqa: SIM115, wait() closes
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid:
            return
        status = 1
        try:
            for number, file in zip((1, 2), self.files, strict=True):
                os.dup2(file.fileno(), number)
            sys.stdout, sys.stderr = (os.fdopen(n, "w", closefd=False) for n in (1, 2))
            sys.argv = [f"{script.rpartition('.')[2]}.py", *words]
            if prepare:
                prepare()
            session.launch(module.train, module.Config, module.__doc__)
            status = 0
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else int(error.code is not None)
            if isinstance(error.code, str):
                print(error.code, file=sys.stderr)
        except BaseException:
            traceback.print_exc()
        finally:
            try:
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(status)

    def wait(self):
        """Until it ends -> Ended."""
        _, status = os.waitpid(self.pid, 0)
        texts = []
        for file in self.files:
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
            file.close()
        return Ended(os.waitstatus_to_exitcode(status), *texts)


def run(script, words, prepare=None):
    return Started(script, words, prepare).wait()
