"""``offramp serve``: models over HTTP, and a page.

Only this module and what it imports first is read for ``--help``; torch, transformers and FastAPI
come with offramp.cli.serving.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Annotated

import typer

from offramp.cli import options
from offramp.cli.generate import logs_disabled
from offramp.errors import ConfigError
from offramp.server.address import listen

EXAMPLE = "Example: offramp serve --model my-model --model elmer-g2p --port 8080"
ADDRESS, ACCESS, LIMITS = "Address", "Who may ask", "Limits"
NEEDED = ("fastapi", "uvicorn", "prometheus_client")

Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        metavar="NAME",
        help="Folder or hub name of a model, or elmer-g2p, which ships; several times for several. "
        "Without it the embedded SmolLM2-135M-Instruct.",
        rich_help_panel=options.EXITS,
    ),
]
Host = Annotated[
    str,
    typer.Option(
        metavar="ADDRESS",
        help="Where to listen; the default can be reached from this machine only.",
        rich_help_panel=ADDRESS,
    ),
]
Port = Annotated[
    int,
    typer.Option(
        min=0,
        max=65535,
        metavar="N",
        help="0 takes a free one and says which.",
        rich_help_panel=ADDRESS,
    ),
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        envvar="OFFRAMP_API_KEY",
        metavar="KEY",
        help="Requests must bring this key. In the environment it cannot be seen by others who "
        "list processes.",
        show_default=False,
        rich_help_panel=ACCESS,
    ),
]
AllowedHosts = Annotated[
    list[str] | None,
    typer.Option(
        "--allowed-host",
        metavar="NAME",
        help="A further name by which the server is called, such as that of a proxy; several times "
        "for several.",
        rich_help_panel=ACCESS,
    ),
]
AllowedOrigins = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-origin",
        metavar="URL",
        help="Pages from there may ask, such as https://example.org; several times for several.",
        rich_help_panel=ACCESS,
    ),
]
Slots = Annotated[
    int,
    typer.Option(
        min=1, metavar="N", help="Texts that are written at a time.", rich_help_panel=LIMITS
    ),
]
Queue = Annotated[
    int,
    typer.Option(
        min=1,
        metavar="N",
        help="Texts that may wait; more are answered 429.",
        rich_help_panel=LIMITS,
    ),
]
CacheTokens = Annotated[
    int,
    typer.Option(
        min=4,
        metavar="N",
        help="Tokens that all texts being written may have together, prompts included; their "
        "keys and values stay in memory.",
        rich_help_panel=LIMITS,
    ),
]
Runtime = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help=f"What runs the blocks of decoders: {options.RUNTIMES}. auto is packed where it fits.",
        rich_help_panel=options.EXITS,
    ),
]
LongestText = Annotated[
    int,
    typer.Option(min=1, metavar="N", help="Longest text, in tokens.", rich_help_panel=LIMITS),
]
LongestPrompt = Annotated[
    int | None,
    typer.Option(
        "--max-prompt-tokens",
        min=1,
        metavar="N",
        help="Longest prompt, in tokens; by default what the model's context leaves.",
        rich_help_panel=LIMITS,
    ),
]
LongestBody = Annotated[
    int,
    typer.Option(
        "--max-body-bytes",
        min=1,
        metavar="N",
        help="Longest body of a request.",
        rich_help_panel=LIMITS,
    ),
]
Grace = Annotated[
    float,
    typer.Option(
        min=0,
        metavar="SECONDS",
        help="How long texts may go on being written after Ctrl-C; a second Ctrl-C stops at once.",
        rich_help_panel=LIMITS,
    ),
]
Json = Annotated[
    bool,
    typer.Option(
        "--json",
        help="One JSON object on stdout once it listens: url, models.",
        rich_help_panel=options.RESULTS,
    ),
]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose",
        help="Log every request, and warnings of transformers, on stderr.",
        rich_help_panel=options.RESULTS,
    ),
]


@dataclass(frozen=True, kw_only=True)
class Serving:
    """What is served, where and to whom; each field is the option of the same name."""

    models: Sequence[str | None]
    exits_from: str | None
    dtype: str
    device: str
    host: str
    port: int
    api_key: str | None
    allowed_hosts: Sequence[str]
    allowed_origins: Sequence[str]
    runtime: str
    slots: int
    queue: int
    cache_tokens: int
    max_new_tokens: int
    max_prompt_tokens: int | None
    max_body_bytes: int
    grace: float
    json: bool
    verbose: bool

    def __post_init__(self) -> None:
        if self.exits_from is not None and len(self.models) > 1:
            raise ConfigError(
                f"--exits-from {self.exits_from} belongs to one model, got {len(self.models)}; "
                "serve one at a time, or save the exits beside their model"
            )
        if self.api_key is not None and not (self.api_key.isascii() and self.api_key.isprintable()):
            raise ConfigError(
                "--api-key must be of printable ASCII; make one by openssl rand -hex 24"
            )
        if self.api_key is not None and not self.api_key.strip():
            raise ConfigError(
                "the API key is empty; leave --api-key and OFFRAMP_API_KEY out, or name one"
            )
        for origin in self.allowed_origins:
            if not origin.startswith(("http://", "https://")) or origin.endswith("/"):
                raise ConfigError(
                    f"--allow-origin takes scheme and name, got {origin!r}; try https://example.org"
                )


def serve(  # noqa: PLR0913 - one parameter for each option
    *,
    model: Models = None,
    exits_from: options.ExitsFrom = None,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    api_key: ApiKey = None,
    allowed_host: AllowedHosts = None,
    allow_origin: AllowedOrigins = None,
    runtime: Runtime = "auto",
    slots: Slots = 16,
    queue: Queue = 64,
    cache_tokens: CacheTokens = 32_768,
    max_new_tokens: LongestText = 2048,
    max_prompt_tokens: LongestPrompt = None,
    max_body_bytes: LongestBody = 1 << 20,
    grace: Grace = 10.0,
    dtype: options.DtypeName = options.Dtype.auto,
    device: options.Device = "auto",
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Serve models as OpenAI does, many texts at a time, and a page to try them on.

    The page is at /, OpenAI's addresses begin at /v1, and /openapi.json describes all of them.
    Ctrl-C stops it, after the texts that are being written.
    """
    settings = Serving(
        models=model or (None,),
        exits_from=exits_from,
        dtype=dtype.value,
        device=device,
        host=host,
        port=port,
        api_key=api_key,
        allowed_hosts=allowed_host or (),
        allowed_origins=allow_origin or (),
        runtime=runtime,
        slots=slots,
        queue=queue,
        cache_tokens=cache_tokens,
        max_new_tokens=max_new_tokens,
        max_prompt_tokens=max_prompt_tokens,
        max_body_bytes=max_body_bytes,
        grace=grace,
        json=json,
        verbose=verbose,
    )
    for name in NEEDED:
        if find_spec(name) is None:
            raise ConfigError(
                f"offramp serve needs {name.replace('_', '-')}, which is not installed; run pip "
                "install 'offramp[serve]'"
            )
    with listen(host, port) as taken:
        # --help and the errors above need no torch, which takes seconds to import.
        with logs_disabled(not verbose):
            from offramp.cli.serving import run_server  # noqa: PLC0415

        run_server(settings, taken)
