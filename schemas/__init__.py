"""Every row, configuration and file format of the project, each defined once as a pydantic model.

Arrow schemas (`schemas.arrow`) and JSON schemas (`Model.model_json_schema()`) derive from these models. Nothing else in
the project describes a table, a form or a file format. Times are integer microseconds from a video's first presented
frame. Spans are half-open: `[start_us, end_us)`.
"""
