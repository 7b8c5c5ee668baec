"""What a dataset's files hold: shards, their index, SequenceExamples, images."""
