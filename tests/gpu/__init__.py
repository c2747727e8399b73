"""What needs a GPU: `make gpu`. Elsewhere these tests are skipped."""
