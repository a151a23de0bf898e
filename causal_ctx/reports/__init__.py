"""Reports: published numbers, tables, figures and one self-contained page, from what a run wrote."""
