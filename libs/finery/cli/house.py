"""Commands that run Finery itself: up, demo, run, bus-init, engines."""

from __future__ import annotations

import importlib
import ipaddress
import signal
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.panel import Panel

from finery.cli.command import DEFAULT_HOME, Shell, UserMistake, errors_shown

SERVICES = {
    "studio": "Studio", "dataset-ingest": "DatasetIngest", "weight-validator": "WeightValidator", "trainer": "Trainer",
    "distiller": "Distiller", "compressor": "Compressor", "evaluator": "Evaluator", "deployer": "Deployer",
    "gateway": "Gateway", "notifier": "Notifier", "billing-meter": "BillingMeter",
}  # fmt: skip
Home = Annotated[Path, typer.Option("--home", envvar="FINERY_HOME", help="Folder for all state; made when missing.")]
Level = Literal["DEBUG", "INFO", "WARNING", "ERROR"]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON line when ready.")]


def up(
    home: Home = DEFAULT_HOME,
    port: Annotated[int, typer.Option(min=1, max=65535, help="The one public port.")] = 8080,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    otlp_endpoint: Annotated[
        str | None,
        typer.Option(envvar="OTEL_EXPORTER_OTLP_ENDPOINT", help="Send traces there, too (OTLP over HTTP)."),
    ] = None,
    allow_webhook_network: Annotated[
        list[str] | None, typer.Option(help="An internal network webhooks may go to, such as 127.0.0.0/8.")
    ] = None,
    log_level: Annotated[Level, typer.Option(case_sensitive=False, help="What home/finery.log keeps.")] = "INFO",
    as_json: AsJson = False,
) -> None:
    """Start everything on this machine and stay up: broker, database, services, one port. SIGTERM ends it cleanly."""
    with errors_shown(as_json=as_json):
        networks = tuple(_network(text) for text in allow_webhook_network or [])
        import asyncio

        from finery.embedded import Options, Ready, run

        shell = Shell(as_json)

        def on_ready(ready: Ready) -> None:
            if as_json:
                print(ready.as_json(), flush=True)
                return
            shell.console.print(
                Panel(
                    f"url      {ready.url}      (OpenAI clients: {ready.url}/v1)\n"
                    f"key      {ready.api_key}\nbus      {ready.nats_url}\nstate    {ready.home}\n"
                    "Stop with Ctrl-C. Next, in another shell: finery gallery list",
                    title="finery is up",
                )
            )

        asyncio.run(run(Options(home, port, host, otlp_endpoint, networks, log_level), on_ready))


def demo(
    home: Annotated[Path, typer.Option("--home", help="Folder for the demo's state.")] = Path(".finery-demo"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON at the end.")] = False,
) -> None:
    """Run the recipe intent classification: data to a tuned, evaluated, called model. Repeating it does no harm."""
    with errors_shown(as_json=as_json):
        from finery.recipes.intent_classification.recipe import run

        # Told to end is as good as Ctrl-C: the installation below must not outlive the demo.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        raise typer.Exit(run(home, as_json=as_json))


def run_service(service: Annotated[str, typer.Argument(help=f"One of: {', '.join(SERVICES)}.")]) -> None:
    """Run one service in this process; its settings come from FINERY_… variables (see its README)."""
    with errors_shown(as_json=False):
        if service not in SERVICES:
            raise UserMistake(f"there is no service {service!r}; there are {', '.join(SERVICES)}")
        import asyncio

        from finery_kit.home import prepare_home
        from finery_kit.logs import set_up_logs
        from finery_kit.settings import Settings, load

        package = f"finery_{service.replace('-', '_')}"
        app: Any = importlib.import_module(f"{package}.app")
        settings: Any = importlib.import_module(f"{package}.settings")
        common = load(Settings)
        set_up_logs(None, common.log_level)
        if not common.installation_secret:
            prepare_home(common.home)
        kind = getattr(settings, f"{SERVICES[service]}Settings")

        async def serve() -> None:
            await app.build(load(kind)).run()

        asyncio.run(serve())


def bus_init_command() -> None:
    """Make or correct every stream, consumer and bucket on the bus that FINERY_NATS_URL names. Safe to repeat."""
    with errors_shown(as_json=False):
        import asyncio

        from finery_kit.bus_init import bus_init
        from finery_kit.service import connected
        from finery_kit.settings import Settings, load

        async def apply() -> None:
            settings = load(Settings)
            async with connected(settings.nats_url) as client:
                await bus_init(client, policy=settings.retention)

        asyncio.run(apply())
        typer.echo("the bus is as it should be")


def bus_config(
    passwords: Annotated[
        bool, typer.Option("--passwords", help="Instead: what the broker is told, as lines of an .env file.")
    ] = False,
    secret: Annotated[
        str | None,
        typer.Option("--secret", envvar="FINERY_INSTALLATION_SECRET", help="With --passwords: the installation's."),
    ] = None,
) -> None:
    """Print nats-server's configuration, with each service's permissions; passwords come from its environment."""
    with errors_shown(as_json=False):
        from finery_kit.nats_config import secrets_for, shared_config

        typer.echo(secrets_for(secret) if passwords else shared_config(), nl=False)


engines = typer.Typer(help="Engine environments: where torch and its friends live.", no_args_is_help=True)


@engines.command("install", epilog="Example: finery engines install ml")
def install(
    name: Annotated[str, typer.Argument(help="Which environment.")] = "ml",
    force: Annotated[bool, typer.Option(help="Make it anew.")] = False,
) -> None:
    """Make an engine environment beside this one; done already is done at once."""
    with errors_shown(as_json=False):
        from finery.environments import install as make

        make(name, force=force, tell=typer.echo)


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text))
    except ValueError as fault:
        raise UserMistake(f"--allow-webhook-network {text}: {fault}") from fault


def register(app: typer.Typer) -> None:
    """Put these commands on the application."""
    app.command("up", epilog="Example: finery up --home ./state --port 8080")(up)
    app.command("demo", epilog="Example: finery demo")(demo)
    app.command("run", epilog="Example: FINERY_NATS_URL=nats://… finery run trainer")(run_service)
    app.command("bus-init", epilog="Example: FINERY_NATS_URL=nats://… finery bus-init")(bus_init_command)
    app.command("bus-config", epilog="Example: finery bus-config --passwords >> .env")(bus_config)
    app.add_typer(engines, name="engines")
