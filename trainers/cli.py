"""The command `tfvt`. Every subcommand imports what it needs and no more: `tfvt models` needs no TensorFlow."""

import os
import sys
from collections.abc import Callable, Sequence

from jsonargparse import ArgumentError, ArgumentParser

from tfvt.errors import USAGE_STATUS, UsageError, complain, one_line

from .errors import parser_error, unknown_key

BROKEN_PIPE_STATUS = 141  # the status that a shell reports for a command that SIGPIPE ended


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status: 0, 2 for a user's mistake, 128 + n for a signal n."""
    name, *rest = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("-h", "--help"):
        print(_overview())
        return 0
    try:
        if name not in COMMANDS:
            raise UsageError(f"there is no command {name!r}; `tfvt --help` lists them")
        status = COMMANDS[name](rest)
        sys.stdout.flush()  # here, so that a reader that has gone causes no traceback
        return status
    except ArgumentError as error:
        return complain(name, parser_error(error))
    except UsageError as error:
        return complain(name, one_line(error))
    except BrokenPipeError:  # `tfvt models | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more when it ends
        return BROKEN_PIPE_STATUS
    except OSError as error:
        return complain(name, error)
    except KeyboardInterrupt:
        print(f"tfvt {name}: interrupted", file=sys.stderr)
        return 130


def _overview() -> str:
    lines = [f"  {name:<10}{command.__doc__.splitlines()[0]}" for name, command in COMMANDS.items()]
    return "\n".join(["usage: tfvt COMMAND ...", "", *lines, "", "`tfvt COMMAND --help` says more."])


def _train(arguments: Sequence[str]) -> int:
    """Train a model from a recipe: --config NAME_OR_FILE --output FOLDER [--KEY VALUE ...]"""
    from .train import train

    return train(arguments)


def _evaluate(arguments: Sequence[str]) -> int:
    """Loss, top-1 and top-5 of a run's model: RUN"""
    from .serve import evaluate

    return evaluate(arguments)


def _report(arguments: Sequence[str]) -> int:
    """One page on a finished run, RUN/report.html, written again: RUN"""
    from .serve import report

    return report(arguments)


def _predict(arguments: Sequence[str]) -> int:
    """Classes of image files by a run's model: RUN IMAGE..."""
    from .serve import predict

    return predict(arguments)


def _export(arguments: Sequence[str]) -> int:
    """A SavedModel on image bytes from a run: RUN [OUTPUT]"""
    from .export import export

    return export(arguments)


def _visualize(arguments: Sequence[str]) -> int:
    """Pictures of what models have learned: tokens | attention | saliency | ... | gallery"""
    from .visualize import visualize

    return visualize(arguments)


def _recipes(arguments: Sequence[str]) -> int:
    """The recipes that come with tfvt, for `tfvt train --config NAME`"""
    from .recipes.files import packaged_recipes

    parser = ArgumentParser(prog="tfvt recipes", description=_recipes.__doc__, exit_on_error=False)
    parser.parse_args(list(arguments))
    recipes = packaged_recipes()
    width = max(map(len, recipes))
    for name, path in recipes.items():
        print(f"{name:<{width}}  {path.read_text(encoding='utf-8').splitlines()[0].removeprefix('# ')}")
    return 0


def _models(arguments: Sequence[str]) -> int:
    """The names of models: [PATTERN]"""
    import tfvt

    parser = ArgumentParser(prog="tfvt models", description=_models.__doc__, exit_on_error=False)
    parser.add_argument("pattern", nargs="?", default="*", help="shell-style pattern such as 'vt_*'")
    pattern = parser.parse_args(list(arguments)).pattern
    names = tfvt.list_models(pattern)
    if not names:
        raise UsageError(f"no model matches {pattern!r}; `tfvt models` lists all")
    print("\n".join(names))
    return 0


def _profile(arguments: Sequence[str]) -> int:
    """Parameters and multiply-adds of a model, layer by layer: NAME [--OPTION VALUE ...]"""
    import tfvt

    if not arguments or arguments[0].startswith("-"):
        print("usage: tfvt profile NAME [--OPTION VALUE ...]; `tfvt profile NAME --help` lists the options of NAME")
        return 0 if {"-h", "--help"} & set(arguments) else USAGE_STATUS
    name, *flags = arguments
    try:
        model = tfvt.create_model(name, **_model_arguments(name, flags))
    except ValueError as error:
        raise UsageError(str(error)) from error
    print(tfvt.profile(model))
    return 0


def _model_arguments(name, flags):
    """Arguments of `create_model` from the flags of `tfvt profile`."""
    from tfvt.registry import option_names

    from .recipes.options import add_options

    parser = ArgumentParser(prog=f"tfvt profile {name}", description=_profile.__doc__, exit_on_error=False)
    parser.add_argument("--input_shape", nargs=3, type=int, default=[224, 224, 3], metavar=("H", "W", "C"))
    parser.add_argument("--num_classes", type=int, default=1000)
    known = {*option_names(name), "input_shape", "num_classes", "help"}
    for flag in flags:
        option = flag.removeprefix("--").partition("=")[0]
        if flag.startswith("--") and option not in known:
            raise unknown_key(option, known)
    add_options(parser, name)
    return parser.parse_args(flags).as_dict()


def _records(arguments: Sequence[str]) -> int:
    """TFRecords from images: convert | inspect | verify | index | serve"""
    from tfvt.tfrecords_tools.cli import main as records_main

    return records_main(list(arguments))


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "train": _train,
    "evaluate": _evaluate,
    "report": _report,
    "predict": _predict,
    "export": _export,
    "visualize": _visualize,
    "recipes": _recipes,
    "models": _models,
    "profile": _profile,
    "records": _records,
}
