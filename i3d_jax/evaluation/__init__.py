"""From a split's clips to the predictions of its videos and to accuracies."""
