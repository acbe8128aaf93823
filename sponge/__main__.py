"""The `sponge` command."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from core.files import FileError
from sponge import arguments

_RESULTS = Path("evaluation/results")


def main(given: Sequence[str] | None = None) -> int:
    """Run a subcommand; exit code 2 and one line for what the user can mend, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="sponge", description="Inference serving that meets each request's own deadline."
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_demo(commands.add_parser("demo", help="two models under real load, here and now; about two minutes"))
    _add_top(commands.add_parser("top", help="the fleet, live"))
    _add_explain(commands.add_parser("explain", help="why a service has the CPU that it has"))
    _add_models(commands.add_parser("models", help="write the demo's model files"))
    _add_traffic(commands.add_parser("traffic", help="send the demo's load to workers that run already"))
    _add_profile(commands.add_parser("profile", help="how long a model's executions take on this machine"))
    _add_plan(commands.add_parser("plan", help="what services would be given of a host, and how many fit"))
    _add_simulate(commands.add_parser("simulate", help="policies on measured traces, in virtual time"))
    _add_bench(commands.add_parser("bench", help="policies on real workers, one after the other, in rounds"))
    _add_experiment(
        commands.add_parser("experiment", help="what evaluates Sponge, by name; tables and plots")
    )
    _add_report(commands.add_parser("report", help="what experiments found, as a page and in a document"))
    parsed = parser.parse_args(given)
    run: Callable[[argparse.Namespace], int] = parsed.run
    try:
        return run(parsed)
    except FileError as error:
        print(f"sponge: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("sponge: interrupted; everything it started is stopped", file=sys.stderr)
        return 130


def _add_demo(parser: argparse.ArgumentParser) -> None:
    arguments.add_load(parser)
    parser.add_argument("--output", type=Path, default=Path("demo-report"), help="default: demo-report")
    parser.add_argument("--json", action="store_true", help="print the numbers as one JSON object")
    parser.set_defaults(run=_demo)


def _add_top(parser: argparse.ArgumentParser) -> None:
    arguments.add_control(parser)
    parser.add_argument("--interval", type=arguments.seconds, default=1.0, metavar="SECONDS")
    parser.add_argument("--once", action="store_true", help="print one frame and exit")
    parser.set_defaults(run=_top)


def _add_explain(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("service", metavar="SERVICE")
    parser.add_argument("--worker", default="", metavar="ID", help="default: every worker of the service")
    arguments.add_control(parser)
    parser.add_argument("--json", action="store_true", help="print what is known as one JSON object")
    parser.set_defaults(run=_explain)


def _add_models(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", type=Path)
    parser.set_defaults(run=_models)


def _add_traffic(parser: argparse.ArgumentParser) -> None:
    arguments.add_load(parser)
    parser.add_argument("--vision", default="127.0.0.1:8001", metavar="HOST:PORT")
    parser.add_argument("--magika", default="127.0.0.1:8011", metavar="HOST:PORT")
    arguments.add_control(parser)
    parser.add_argument("--output", type=Path, help="directory for a report; default: none")
    parser.set_defaults(run=_traffic, seconds=100.0)


def _add_profile(parser: argparse.ArgumentParser) -> None:
    from sponge import profile

    profile.add_arguments(parser)
    parser.set_defaults(run=profile.run)


def _add_plan(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE.toml", help="a host and what it serves")
    parser.add_argument("--fit", metavar="SERVICE", help="how many equal copies of it fit beside the others")
    parser.add_argument(
        "--share",
        type=arguments.percent,
        default=1.0,
        metavar="PERCENT",
        help="of requests that may be expected to miss, of each service, for --fit; default: 1",
    )
    parser.add_argument(
        "--rate",
        type=arguments.rate,
        action="append",
        default=[],
        metavar="SERVICE=R",
        help="requests/s instead of the file's; may be given for several",
    )
    parser.add_argument(
        "--host", type=arguments.count, metavar="MILLICORES", help="a host of another size than the file's"
    )
    parser.add_argument("--json", action="store_true", help="print the same as one JSON object")
    parser.set_defaults(run=_plan)


def _add_simulate(parser: argparse.ArgumentParser) -> None:
    from evaluation.simulation import flags

    flags.add_arguments(parser)
    parser.set_defaults(run=_simulate)


def _add_bench(parser: argparse.ArgumentParser) -> None:
    from evaluation.bench import flags

    flags.add_arguments(parser)
    parser.set_defaults(run=_bench)


def _add_experiment(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="see --list; or the path of a TOML file")
    parser.add_argument("--list", action="store_true", help="name those that come with Sponge")
    parser.add_argument("--traces", type=Path, metavar="DIR", help="measured traces; default: SPONGE_TRACES")
    parser.add_argument("--output", type=Path, default=_RESULTS, help=f"default: {_RESULTS}")
    parser.add_argument(
        "--jobs", type=arguments.count, metavar="N", help="processes; default: one for each CPU"
    )
    parser.add_argument(
        "--seconds", type=arguments.seconds, help="of each run, for a first look; of the soak as wanted"
    )
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="of the faults; may be given for several"
    )
    parser.add_argument("--json", action="store_true", help="print the finding as one JSON object")
    parser.set_defaults(run=_experiment)


def _add_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "results",
        type=Path,
        nargs="?",
        default=_RESULTS,
        metavar="RESULTS",
        help=f"directory; default: {_RESULTS}",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE.html",
        help="page; default: evaluation.html, and none with --markdown",
    )
    parser.add_argument(
        "--markdown",
        type=Path,
        action="append",
        default=[],
        metavar="FILE.md",
        help="document whose marked tables are rewritten; may be given for several",
    )
    parser.set_defaults(run=_report)


def _demo(parsed: argparse.Namespace) -> int:
    from evaluation import demo
    from sponge import show

    options = demo.Options(parsed.models, parsed.output, parsed.bandwidth, parsed.seconds, parsed.seed)
    return show.measured(lambda progress: demo.run(options, progress), parsed.output, as_json=parsed.json)


def _traffic(parsed: argparse.Namespace) -> int:
    from evaluation import traffic
    from sponge import show

    options = traffic.Options(
        models=parsed.models,
        addresses={"vision": parsed.vision, "magika": parsed.magika},
        control=parsed.control,
        bandwidth=parsed.bandwidth,
        seconds=parsed.seconds,
        seed=parsed.seed,
        access=arguments.access(parsed),
    )
    return show.measured(lambda progress: traffic.run(options, progress), parsed.output, as_json=False)


def _plan(parsed: argparse.Namespace) -> int:
    from sponge import plan

    options = plan.Options(parsed.file, parsed.fit, parsed.share / 100, dict(parsed.rate), parsed.host)
    return plan.run(options, as_json=parsed.json)


def _simulate(parsed: argparse.Namespace) -> int:
    from evaluation.simulation import cli

    return cli.run(parsed)


def _bench(parsed: argparse.Namespace) -> int:
    from evaluation.bench import cli

    return cli.run(parsed)


def _experiment(parsed: argparse.Namespace) -> int:
    from evaluation.experiment import cli

    return cli.run(parsed)


def _report(parsed: argparse.Namespace) -> int:
    from evaluation.experiment import report

    page = parsed.output or (None if parsed.markdown else Path("evaluation.html"))
    return report.run(parsed.results, page, parsed.markdown)


def _top(parsed: argparse.Namespace) -> int:
    from sponge import top

    return top.run(parsed.control, parsed.interval, parsed.once, arguments.access(parsed))


def _explain(parsed: argparse.Namespace) -> int:
    from sponge import explain

    return explain.run(
        parsed.control, parsed.service, parsed.worker, as_json=parsed.json, access=arguments.access(parsed)
    )


def _models(parsed: argparse.Namespace) -> int:
    from evaluation import scenario

    scenario.build_models(parsed.directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
