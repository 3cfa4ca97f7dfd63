"""`weighlock view`: a page on this machine that shows what checkpoints hold. Read-only; nothing in a file is run.

- `looking`: what the page asks for that needs no tensor: trees, tables, storages, layout, scan, single values;
- `reading`: what needs them: heat maps, figures, differences, downloads;
- `application`: the addresses under ``/api/v1``;
- `guarding`: who may ask at all;
- `jobs`: threads that do the work, and stop when nobody waits for it;
- `serving`: the web server around it.

Files are named when it starts, and by their number from then on: no request can name a path.
"""
