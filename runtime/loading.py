"""Reads a model and its tokenizer from files, with its adapters where they are trained."""

from runtime import chat, hub, lora, model_files

import torch
import transformers

from tasks import InputError

transformers.utils.logging.disable_progress_bar()


def load(name, device, dtype=torch.float32, rank=None, seed=0):
    """(model, tokenizer) of a folder, of a run's or of a hub id, for common.load_model.

    rank: of adapters to train, 0: none; None: the model is not to be trained. dtype: of weights
    that are frozen. InputError, in one line, if it cannot be used.
    """
    place, local_only = hub.find(name)
    place = source = words = model_files.model_of_run(place)
    try:
        model_files.check(place)
        base = lora.base_of(place)  # None: it is no adapter
        if base:
            source, local_only = base
            model_files.check(source)
            words = place if model_files.has_tokenizer(place) else source
        is_frozen = bool(base or rank)
        safe = {"trust_remote_code": False, "local_files_only": local_only}
        tokenizer = transformers.AutoTokenizer.from_pretrained(words, **safe)
        model_files.check_eos(words, tokenizer)
        written, _ = transformers.PretrainedConfig.get_config_dict(source, **safe)
        model_files.check_config(written)
        model = lora.frozen(source) if is_frozen or rank is None else None
        if model is None:
            model, loading = transformers.AutoModelForCausalLM.from_pretrained(
                source,
                dtype=dtype if is_frozen else torch.float32,
                use_safetensors=True,
                output_loading_info=True,
                adapter_kwargs={"local_files_only": True},  # the hub is not asked for any
                **safe,
            )
            if lora.has_adapters(model):
                raise InputError("its repository has adapters too; download it, give the folder")
            model_files.check_weights(model, loading["missing_keys"])
        chat.set_end_ids(model, tokenizer, written)
        model = model.to(device)
        if is_frozen:
            model = lora.add_adapters(model, source, rank or 0, seed, place if base else None)
    except InputError as error:
        raise InputError(f"--model {name}: {error}") from error
    except Exception as error:  # there is nothing that such files cannot raise
        raise InputError(f"--model {name}: {model_files.why(error, source)}") from error
    return model.eval(), tokenizer
