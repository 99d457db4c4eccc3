"""A model behind HTTP: for programs (`mmfusion serve`) and as a page for people (`mmfusion demo`).

`limits` says what one client may ask for, `requests` reads what it sent, `preparing` makes model
inputs of it, `batching` joins the inputs of many clients, `engines` answers a batch, and `app` is
the HTTP application. `demo` is the page.
"""
