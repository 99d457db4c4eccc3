"""The commands that put a model behind HTTP."""

import os
from functools import partial
from pathlib import Path

import typer

from ..model.printing import printable
from . import options
from .app import app
from .errors import user_errors
from .inputs import check_model, open_model, require_extra
from .support import quiet_libraries

KERNEL_CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
"""The variables that limit the caches of oneDNN and of torch's layer over it, in kernels.

https://uxlfoundation.github.io/oneDNN/dev_guide_primitive_cache.html
"""


@app.command()
@user_errors
def serve(
    model: options.ModelFolder,
    host: options.Host = "127.0.0.1",
    port: options.Port = 8000,
    engine: options.EngineName = "eager",
    dtype: options.EngineDtype = "float32",
    batch_size: options.ServedBatchSize = 32,
    wait: options.Wait = 0.0,
    threads: options.DecodingThreads = None,
    most_bytes: options.MostBytes = 16 * 2**20,
    most_pixels: options.MostPixels = 50_000_000,
    most_characters: options.MostCharacters = 100_000,
    seconds: options.MostSeconds = 30.0,
    most_waiting: options.MostWaiting = 128,
    config: options.ConfigFile = None,
) -> None:
    """Answer samples over HTTP: POST /predict and GET /health.

    Nobody is asked who they are, and nothing is encrypted. Leave it on this machine, or put a proxy
    that does both before it.
    """
    require_extra("serve", "fastapi", "uvicorn", "multipart")
    # On a CPU each number of tokens has kernels of its own, and the memory of the engine "compiled"
    # grew with each. docs/serving.md has the figures.
    for variable in KERNEL_CACHES:
        os.environ.setdefault(variable, "128")
    import torch
    import uvicorn

    from ..serving.app import make_app
    from ..serving.engines import check_engine, make_engine
    from ..serving.limits import Limits

    check_model(model)
    check_engine(engine, dtype)
    if engine == "onnx":
        require_extra("export", "onnx", "onnxruntime", "onnxscript")
    if dtype == "int8":
        require_extra("int8", "torchao")
    limits = Limits(most_bytes, most_pixels, most_characters, seconds, most_waiting)
    classifier, processor = open_model(model)
    # onnxruntime runs on the CPU, where the graph is also compared with the model.
    if torch.cuda.is_available() and engine != "onnx":
        torch.nn.Module.to(classifier, "cuda")
    windows = processor.long_text == "chunk"
    made = partial(
        make_engine, classifier, engine, dtype=dtype, batch_size=batch_size, windows=windows
    )
    http = make_app(
        classifier,
        processor,
        made,
        limits=limits,
        batch_size=batch_size,
        wait=wait / 1000,
        threads=threads,
    )
    name = printable(Path(model).name if Path(model).is_dir() else model)
    typer.echo(f"{name}: engine {engine}, {dtype}. POST /predict and GET /health; Ctrl-C stops it.")
    # A slow client may not hold a connection without asking anything.
    uvicorn.run(http, host=host, port=port, access_log=False, timeout_keep_alive=15)


@app.command()
@user_errors
def demo(
    model: options.DemoModels = None,
    host: options.Host = "127.0.0.1",
    port: options.Port = 7860,
    lungs: options.Lungs = True,
    opens: options.OpensBrowser = False,
    config: options.ConfigFile = None,
) -> None:
    """Open a page to try models on: drop a picture, write a note, see the answer and its reasons.

    Without a MODEL it shows a small one that was trained on synthetic pictures. As with serve,
    nobody is asked who they are.
    """
    require_extra("demo", "gradio")
    # The page needs no figures of its visitors, and Gradio asks its maker for news.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ.setdefault("KERAS_BACKEND", "torch")
    # Where tensorflow is installed, keras imports it whatever its backend is, and it prints lines.
    for variable, value in (("TF_CPP_MIN_LOG_LEVEL", "3"), ("TF_ENABLE_ONEDNN_OPTS", "0")):
        os.environ.setdefault(variable, value)
    from importlib.util import find_spec

    from ..serving.demo import SYNTHETIC, launch, make_demo
    from ..serving.limits import Limits
    from ..serving.phantom import phantom_examples, phantom_parts

    quiet_libraries()
    named = model or []
    for one in named:
        check_model(one)
    models = {printable(one): open_model(one) for one in named}
    segmenter = None
    if lungs and find_spec("keras") is not None:
        from ..segmentation.lungs import LungSegmenter

        segmenter = LungSegmenter()
    page = make_demo(
        models or {"phantom": phantom_parts()},
        segmenter=segmenter,
        examples=() if named else phantom_examples(),
        notice=None if named else SYNTHETIC,
    )
    address = launch(page, host=host, port=port, limits=Limits(), opens=opens)
    typer.echo(f"{', '.join(models) or 'a synthetic model'}: {address} (Ctrl-C stops it)")
    page.block_thread()
