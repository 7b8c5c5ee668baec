"""Beam's portable job server with several workers for each job; its own has one.

`python -m helpers.job_server WORKERS PORT_FILE`
"""

import sys
import threading
from pathlib import Path

from apache_beam.portability.api import beam_job_api_pb2
from apache_beam.runners.portability import local_job_service
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner


class _Job(local_job_service.BeamJob):
    workers = 1

    def _invoke_runner(self):
        self.set_state(beam_job_api_pb2.JobState.RUNNING)
        runner = FnApiRunner(provision_info=self._provision_info)
        runner._num_workers = self.workers
        return runner.run_via_runner_api(self._pipeline_proto, self.pipeline_options())


def serve(workers: int, port_file: Path) -> None:
    """Serves for ever; the port is in the file once it listens."""
    _Job.workers = workers
    port = local_job_service.LocalJobServicer(beam_job_type=_Job).start_grpc_server()
    whole = port_file.with_suffix(".tmp")
    whole.write_text(str(port))
    whole.rename(port_file)
    threading.Event().wait()


if __name__ == "__main__":
    serve(int(sys.argv[1]), Path(sys.argv[2]))
