"""The machine and the processes on it: errors, files, locks, workers, hosts, clusters, signals."""
