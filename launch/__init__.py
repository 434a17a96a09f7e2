"""What carries one command to machines: engines queue, poll, restart and re-create; this describes, checks and hands
over.

    job -> snapshot -> engine.render -> files and argument lists -> submitted, or shown by --dry-run

Neither jax nor jaxdiff is imported here: a dry run needs no more than Python.
"""
