"""The numbers that bound a pipeline, each with its reason; nothing in a pipeline is unbounded."""

from __future__ import annotations

#: Bytes of a pipeline's text. The longest sensible one is a few kB; a pod's environment must hold it too.
PIPELINE_BYTES = 64 * 1024
#: Bytes of ``etl_args``: as many as BOXES and KEYPOINTS take. It travels in the query of a URL; Go's servers, AIStore's
#: among them, take 1 MiB.
ARGUMENTS_BYTES = 384 * 1024
#: Boxes of one image, and keypoints.
BOXES = 1_000
KEYPOINTS = 10_000
#: Bytes of an object's name with its bucket: AIStore stores no longer ones, and JSON may make three of each.
OBJECT_BYTES = 1024 + 64 + 1
#: Characters of a shard member's extension, and extensions that a pipeline names.
EXTENSION = 64
EXTENSIONS = 16
#: Levels of nesting. A pipeline needs four; parsers that recurse must stop long before Python does.
NESTING = 32
#: Values in a pipeline that comes as data, where shared references could make few bytes endless.
NODES = 64 * 1024
#: Steps of a pipeline. Each may copy the whole image.
STEPS = 64
#: Steps inside one step (RandomApply, RandomChoice, RandomOrder), and how many such steps may lie in each other.
INNER = 8
DEPTH = 3
#: Problems listed in one error; the rest are counted.
PROBLEMS = 100
#: Unknown keys of one object that are named, each with the one it resembles; the rest are counted.
UNKNOWN = 10
#: Pixels along one edge, and the width of a border: 8192 x 8192 RGB is 200 MB.
EDGE = 8192
#: Repetitions inside one step (operations of RandAugment, chains of AugMix): each is a pass over the image.
REPEATS = 100
#: Numbers in a list that one is drawn of: sizes of RandomShortestSize, and the options of RandomIoUCrop, which tries up
#: to REPEATS boxes for each until it draws one that needs none.
DRAWN_OF = 32
#: Times that a step may make an image longer; what it makes in all is the server's limit.
GROWTH = 100.0
#: The largest value of a mask: 16 bits.
MASK_VALUE = 2**16 - 1
#: Steps between the weakest and the strongest augmentation; torchvision makes a table of as many numbers each time.
BINS = 1024
#: Views answered to one request.
VIEWS = 64
#: The largest seed: signed 64 bits, as JSON readers in other languages hold it.
SEED = 2**63 - 1
#: The largest epoch and view: signed 32 bits.
COUNTER = 2**31 - 1
#: The largest number: the largest float16, so that each number exists in every dtype we offer.
NUMBER = 65504.0
#: The smallest divisor: the smallest positive float16, for a divisor must not round to zero in any dtype.
DIVISOR = 2.0**-24
