"""Every key of a configuration, with what it means; the other recipes change what they need.

The values are those of the release's RGB stream on Kinetics; of other architectures, clips are those of the paper's
Table 1.
"""

import dataclasses

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from i3d_jax import models


def get_config(architecture: str = "i3d") -> ConfigDict:
    """Returns the configuration that the recipes of an architecture start from."""
    training_clip, test_clip = models.MODELS[architecture].training_clip, models.MODELS[architecture].test_clip
    config = ConfigDict()
    # The randomness of initial parameters, dropout, clips, crops and flips: all of it.
    config.seed = 0
    # Training ends after this many steps; it may be raised when a run is started again.
    config.total_steps = 115_000
    # Clips a step over all devices; the release's 64 GPUs took 6 each.
    config.batch_size = 384
    # Microbatches that a step goes through one after the other, in the memory of one of them; each is split over the
    # devices. Batch normalisation uses the statistics of each microbatch, and moves the running ones once a step, by
    # their mean.
    config.accumulation_steps = 1
    # Share of each label that is spread evenly over all classes; 0.0: none.
    config.label_smoothing = 0.0
    # A checkpoint directory or a workdir whose parameters and statistics training starts from; None: from scratch. That
    # of an image network (inception_v1) is inflated. A classifier of other classes stays behind.
    config.init_from = placeholder(str)
    # How an image network's kernels are spread over time: "average" (the paper) or "centre" (the middle tap alone).
    config.init_profile = "average"
    # Steps between two lines of the log and of metrics.jsonl; each holds the mean since the one before.
    config.log_every = 50
    # Where JAX keeps compiled programs from one run to the next: a directory; "default": that of
    # JAX_COMPILATION_CACHE_DIR in the environment, else i3d_jax/compiled in the user's cache folder; "off": nowhere.
    config.compilation_cache = "default"
    # Whether the run ends with WORKDIR/report.html, the page of `python -m i3d_jax.report`.
    config.report = True

    config.model = ConfigDict()
    # The architecture, as in `models.create`; the other keys of this section are its options.
    config.model.name = architecture
    # Share of the pooled features dropped in training.
    config.model.dropout_rate = 0.5
    # Scales the channels of every layer; 1.0 is the paper's network.
    config.model.width_multiplier = 1.0
    # How much of batch normalisation's running statistics a step keeps. Short runs need a smaller one: evaluation uses
    # these statistics, and after n steps decay^n of them is still their initial value.
    config.model.batch_norm_decay = 0.999
    # The computation's dtype: "float32" or "bfloat16"; parameters, statistics and logits stay float32.
    config.model.dtype = "float32"
    # "train": training normalises by the batch's statistics. "frozen": by the running ones, which stay as they are: for
    # fine-tuning from init_from.
    config.model.batch_norm = "train"
    # Whether the backward pass computes each block of layers again instead of keeping it: the same numbers in less
    # memory for a third more arithmetic (not on CPUs, where XLA undoes it in part).
    config.model.rematerialise = False
    # Further options are those that the architecture's class has.
    options = {field.name: field.default for field in dataclasses.fields(models.MODELS[architecture])}
    if "stem_padding" in options:
        # How the first convolution pads in space: "same" (TensorFlow) or "symmetric" (for weights from PyTorch).
        config.model.stem_padding = "same"
    if "last_block" in options:
        # Where Inception's trunk ends: an earlier block than the paper's makes a smaller network.
        config.model.last_block = "Mixed_5c"
    if "batch_norm_gain" in options:
        # Whether batch normalisation has gains beside its offsets (the release has none): for weights from PyTorch.
        config.model.batch_norm_gain = False
    if "stream" in options:
        # "rgb" or "flow"; of two_stream and fused also "both", which is where they begin.
        config.model.stream = options["stream"]
    if "temporal_padding" in options:
        # What stands before the first frame and after the last: "zeros" (the release) or "replicate".
        config.model.temporal_padding = "zeros"
    if "statistics_steps" in options:
        # Time steps with batch statistics of their own, at least data.frames.
        config.model.statistics_steps = training_clip.frames
    if "frame_size" in options:
        # Pixels of a side of the frames; must equal data.crop.
        config.model.frame_size = training_clip.size

    config.data = ConfigDict()
    # Where the videos come from: "prepared" (`python -m i3d_jax.prepare`), "sequence_examples" (shards that the scripts
    # of MediaPipe or DMVR wrote) or "tfds" (a set that TensorFlow Datasets built; it has no flow).
    config.data.source = "prepared"
    # The dataset folder, the folder of the shards, or TensorFlow Datasets' data_dir.
    config.data.directory = placeholder(str)
    # Of "tfds": SET[/CONFIGURATION][:VERSION], such as "ucf101/ucf101_1"; a user's own is named like a published one.
    config.data.tfds_name = placeholder(str)
    # Of "sequence_examples": a file of the labels' names, one a line in the order of their indexes; None: the names
    # that the records hold, in alphabetical order.
    config.data.labels = placeholder(str)
    # What you know of the frames of another program that its records do not tell. What stays None is unknown: it
    # matches nothing else, and `predict` cannot prepare a video for the network.
    config.data.stated = ConfigDict()
    # Frames a second. MediaPipe's records tell them; DMVR's (its script makes 10) and TensorFlow Datasets' do not.
    config.data.stated.frame_rate = placeholder(float)
    # "bilinear" if they were resized as `prepare` does it, keeping the aspect (MediaPipe's script does not).
    config.data.stated.interpolation = placeholder(str)
    # 1 to 100.
    config.data.stated.jpeg_quality = placeholder(int)
    # The split trained on. Of "sequence_examples" it is all that stands before a shard's numbers.
    config.data.train_split = "train"
    # Frames of a training clip. Of flow there is one field for each, or ten around each for two_stream and fused.
    config.data.frames = training_clip.frames
    # From one frame of a clip to the next, in frames of the dataset (25 a second in ours): 1 for consecutive ones.
    config.data.stride = training_clip.stride
    # Pixels of the shorter side to which larger frames are resized before the crop, 128 for 3D-ConvNet's crops of 112
    # (paper, section 2.2); 0: as the dataset holds them. RGB alone.
    config.data.network_short_side = training_clip.short_side or 0
    # Side of the square cut out of each frame, in pixels: at random in training, the centre in evaluation.
    config.data.crop = training_clip.size
    # Whether half of the training clips are mirrored. Switch it off where left and right are different actions.
    config.data.flip = True
    # How videos follow each other in training: "random", each epoch in an order of its own over the whole split; or
    # "shards", for disks and buckets that dislike random reads: the shards in an order of the epoch's own, and 1,024
    # videos at a time, in the order of these shards, shuffled. Either follows from the seed and the step alone.
    config.data.order = "random"
    # Clips that each process reads at the same time, of which most wait for the disk or the network. More are needed
    # where an answer takes longer: clips a second, of a process, times the seconds from a request to its answer.
    config.data.parallel_reads = 16
    # Damaged records are skipped and counted; above this share of a split's records the run stops.
    config.data.max_damaged_share = 0.05
    # Above 0: first draw that many training videos (and a quarter as many test videos) of each of the eight embedded
    # actions into the workdir, and prepare them there, with flow if the architecture sees it.
    config.data.synthetic_videos_per_action = 0

    config.optimizer = ConfigDict()
    # "sgd", the release's, or "adam".
    config.optimizer.name = "sgd"
    # "stepwise", or "plateau": one learning rate, no boundaries, and the rate is multiplied by plateau_factor each time
    # that the validation loss has not fallen for plateau_patience evaluations (in turn, every evaluation.every steps).
    config.optimizer.schedule = "stepwise"
    config.optimizer.plateau_patience = 3
    config.optimizer.plateau_factor = 0.1
    # Training ends when the rate has fallen so often, before total_steps; 0: it does not.
    config.optimizer.plateau_stop = 0
    # One learning rate for each interval of the training, and the steps at which the next one begins.
    config.optimizer.learning_rates = (0.1, 0.01, 0.001)
    config.optimizer.boundaries = (97_000, 108_000)
    # Over so many steps the learning rate rises from 0 to what it is without; 0: at once.
    config.optimizer.warmup_steps = 0
    # The batch size that the learning rates are meant for: at another they are multiplied by batch_size over this one,
    # and the log says so. None: they are taken as they are.
    config.optimizer.reference_batch_size = placeholder(int)
    # Share of the accumulated gradient that a step keeps.
    config.optimizer.momentum = 0.9
    # On kernels only, added to the gradient.
    config.optimizer.weight_decay = 1e-7
    # How much of an exponential moving average of the parameters and running statistics a step keeps, such as 0.9999;
    # the average is what is evaluated and published. 0.0: none.
    config.optimizer.average_decay = 0.0

    config.transfer = ConfigDict()
    # A protocol of the paper's section 5: "original" trains everything, from an image network or from scratch; "full"
    # trains everything, from a network of videos (init_from); "fixed" trains the classifier of such a network alone, on
    # features that are computed once, of the evaluation's windows and the centre crop (data.frames and data.flip play
    # no part). None: everything is trained, from whatever init_from names.
    config.transfer.protocol = placeholder(str)

    config.parallel = ConfigDict()
    # "pjit": batch statistics over the whole batch, the same for any number of devices. "pmap": each device normalises
    # its own clips, as the release trained; the running statistics are averaged at each evaluation and checkpoint.
    config.parallel.mode = "pjit"
    # Of "pjit": whether parameters and optimizer state are split over the devices instead of being whole on each.
    config.parallel.shard_state = False

    config.evaluation = ConfigDict()
    # The split evaluated; None: after train01 test01, and so on; else the first there is of validation, validate, val,
    # test; else the training split.
    config.evaluation.split = placeholder(str)
    # Steps between two evaluations; there is one at the end in any case. 0: at the end only.
    config.evaluation.every = 5_000
    # Videos at a time, over all devices of all hosts; raised until every device has as many. The figures do not depend
    # on it.
    config.evaluation.batch_size = 8
    # By which rule a video gets its scores. "whole_video", the paper's: windows of its test clip, evenly spread, of
    # which the centre crop is seen. "windows": several crops of each window. "dense": all frames of the video at once,
    # computed piece by piece; of I3D alone.
    config.evaluation.protocol = "whole_video"
    # Frames of a window, data.stride apart; the paper's 10 seconds. Shorter videos are looped. Of "dense" those
    # that are computed at a time (at least 208 are), which changes no figure.
    config.evaluation.frames = test_clip.frames
    # Windows of a video, evenly spread; 1 takes the first frames. Of "dense" no part.
    config.evaluation.windows = 1
    # Of "windows": crops of each, 1 (the centre), 3 (along the longer side), 5 (corners and centre) or 10 (these and
    # their mirrors).
    config.evaluation.crops = 1
    # Of "windows": what is averaged over a video's windows and crops, "logits" or "probabilities".
    config.evaluation.average = "logits"
    # "highest": a float32 network computes in float32 on GPUs and TPUs as well. "default": as fast as they can;
    # with TF32, logits differ by up to 6e-4.
    config.evaluation.precision = "highest"

    config.checkpoints = ConfigDict()
    # Steps between two checkpoints; there is one at each evaluation and at the end in any case.
    config.checkpoints.every = 1_000
    # How many of the newest are kept, besides the best.
    config.checkpoints.keep_last = 3

    config.profile = ConfigDict()
    # A trace of the steps from this one on goes to WORKDIR/profile; 1 is the first, which compiles. None: no trace.
    config.profile.first_step = placeholder(int)
    # How many steps it covers.
    config.profile.steps = 5

    return config.lock()
