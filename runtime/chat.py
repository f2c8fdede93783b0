"""What a tokenizer and its chat template make of a problem, and what ends the reply to it."""

import datetime
import re

import transformers

from tasks import InputError

# Put before a template that writes a date: its own strftime_now, in Jinja, since transformers hands
# no function to a template.
STRFTIME_NOW = """
{%- macro strftime_now(format) -%}
    {%- set written = namespace(text=format) -%}
    {%- for code, text in codes_of_the_date.items() -%}
        {%- set written.text = written.text.replace(code, text) -%}
    {%- endfor -%}
    {{- written.text -}}
{%- endmacro -%}
"""
EMPTY_THOUGHT = re.compile(r"<think>\s*</think>\s*$")  # what a template writes for "do not think"


def prompt_ids(tokenizer, text):
    """Token ids of one prompt: BOS once at most, <think> opened once, no EOS."""
    if tokenizer.chat_template:
        text = EMPTY_THOUGHT.sub("", ask(tokenizer, text))
        opening = "" if text.rstrip().endswith("<think>") else "<think>"
        ids = tokenizer.encode(text + opening, add_special_tokens=False)  # the template added them
    else:
        ids = tokenizer.encode(text + "\n<think>")
    if tokenizer.bos_token_id is not None and ids[:2] == [tokenizer.bos_token_id] * 2:
        ids = ids[1:]  # from a template that writes it beside one that adds it
    return ids[:-1] if ids[-1] == tokenizer.eos_token_id else ids


def ask(tokenizer, text):
    """The chat template around a user's text. ValueError, or the template's own error, if it fails.

    Some templates read a message only as a list of parts, and would leave a plain text out. Others
    write today's date: `tokenizer.date`, if a run has set it, so that a run resumed tomorrow asks
    as it did today.
    """
    template = tokenizer.get_chat_template()
    if "strftime_now" in template:
        template = STRFTIME_NOW + template
    date = getattr(tokenizer, "date", None) or datetime.datetime.now()
    codes = {f"%{letter}": date.strftime(f"%{letter}") for letter in "aAbBcdHIjmMpSxXyYZ"}
    failure = None
    for content in (text, [{"type": "text", "text": text}]):
        try:
            asked = tokenizer.apply_chat_template(
                [{"role": "user", "content": content}],
                tokenize=False,
                add_generation_prompt=True,
                chat_template=template,
                enable_thinking=True,
                codes_of_the_date=codes,
            )
        except Exception as error:  # it is somebody else's program
            failure = failure or error
            continue
        if text.strip() in asked:  # some templates trim
            return asked
        failure = failure or ValueError("it leaves the problem out")
    raise failure


def set_end_ids(model, tokenizer, written):
    """Makes model.generation_config.eos_token_id the ids of all tokens that end a completion.

    A model may end its turn with another token than its tokenizer's EOS, or with one of several.
    They stand in the tokenizer, in its chat template, in generation_config.json, and in config.json
    (`written`, a dict). The last counts for special tokens only: a class's default, 2 for Llama's,
    is written there too, and may be any word. InputError if the model can write none of them.
    """
    of_config = as_list(written.get("eos_token_id"))
    of_config += as_list((written.get("text_config") or {}).get("eos_token_id"))
    found = [i for i in of_config if i in special_ids(tokenizer)]
    found += [tokenizer.eos_token_id, turn_end(tokenizer)]
    generation = model.generation_config or transformers.GenerationConfig()
    of_generation = as_list(generation.eos_token_id)
    if generation._from_model_config:  # it repeats config.json
        of_generation = [i for i in of_generation if i in special_ids(tokenizer)]
    found += of_generation
    vocabulary = model.get_input_embeddings().num_embeddings
    ends = sorted({i for i in found if type(i) is int and 0 <= i < vocabulary})
    if not ends:
        raise InputError(
            f"it has no end-of-sequence token among its {vocabulary}; set eos_token in its "
            "tokenizer_config.json"
        )
    generation.eos_token_id = ends
    model.generation_config = generation


def as_list(value):
    return [*value] if isinstance(value, list) else [value]


def special_ids(tokenizer):
    return {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}


def turn_end(tokenizer):
    """Id of the special token that the chat template puts after an assistant's turn, or None."""
    if not tokenizer.chat_template:
        return None
    said = "1+2"
    chat = [{"role": "user", "content": "?"}, {"role": "assistant", "content": said}]
    try:
        behind = tokenizer.apply_chat_template(chat, tokenize=False).rpartition(said)[2]
        ids = tokenizer.encode(behind.strip(), add_special_tokens=False)
    except Exception:  # a template for questions only
        return None
    return ids[0] if ids and ids[0] in special_ids(tokenizer) else None


def end_with_the_turn(tokenizer):
    """Makes the turn's end the tokenizer's EOS, for a framework that ends at that one alone."""
    end = turn_end(tokenizer)
    if end is not None:
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end)
