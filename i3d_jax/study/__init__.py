"""The paper's tables: what is published, which runs fill a cell, the runs, and the tables beside the published ones."""
