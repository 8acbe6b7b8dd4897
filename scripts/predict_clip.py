"""Classify one clip of a video: a file, a start and an end in seconds or frames, a checkpoint -> top-k.

python scripts/predict_clip.py clip.mp4 --checkpoint last.ckpt --start 2.0 --end 4.2
python scripts/predict_clip.py clip.mp4 --checkpoint last.ckpt --start-frame 60 --end-frame 124 --format json
"""

import argparse
import sys

from videogn import load, predict_video
from videogn.classify_cli import format_predictions
from videogn.errors import UsageError, VideoError
from videogn.inference import for_inference


def main() -> int:
    """Run the script; returns the exit code: 0, 1 for a file that cannot be decoded, 2 for wrong usage."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("video", help="video file")
    parser.add_argument(
        "--checkpoint", required=True, metavar="CKPT", help="checkpoint of `videogn fit`, or exported weights"
    )
    start, end = parser.add_mutually_exclusive_group(), parser.add_mutually_exclusive_group()
    start.add_argument("--start", type=float, metavar="SECONDS", help="start of the clip (default: of the video)")
    start.add_argument("--start-frame", type=int, metavar="N", help="start as a frame number, counted from 0")
    end.add_argument("--end", type=float, metavar="SECONDS", help="end of the clip, exclusive (default: of the video)")
    end.add_argument("--end-frame", type=int, metavar="N", help="end as a frame number, exclusive")
    parser.add_argument("--num-clips", type=int, default=1, help="network inputs spread over the part (default 1)")
    parser.add_argument("--topk", type=int, default=5, help="classes to print (default 5)")
    parser.add_argument("--format", choices=["table", "json"], default="table")
    parser.add_argument(
        "--precision",
        choices=["float32", "bfloat16", "auto"],
        default="float32",
        help="auto: bfloat16 where the CPU has instructions for it (default float32)",
    )
    options = parser.parse_args()
    try:
        predictions = predict_video(
            for_inference(load(options.checkpoint), options.precision),
            options.video,
            options.num_clips,
            options.topk,
            start_seconds=options.start,
            end_seconds=options.end,
            start_frame=options.start_frame,
            end_frame=options.end_frame,
        )
    except (UsageError, VideoError) as error:
        print(f"predict_clip: error: {error}", file=sys.stderr)
        return error.exit_code
    print(format_predictions(options.video, predictions, options.format))
    return 0


if __name__ == "__main__":
    sys.exit(main())
