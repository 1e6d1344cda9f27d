#!/usr/bin/env python3
"""Trains and evaluates any system of densekit; ``python train_net.py --help`` shows how."""

from densekit.arguments import parse_arguments


def main() -> None:
    """Reads the command line before torch is imported, then runs the job in as many processes as it asks for."""
    args = parse_arguments()
    from densekit.engine import launch, run, user_errors
    from densekit.engine.setup import describe, read_config

    with user_errors():
        if args.print_config or args.diff:
            print(describe(args))
            return
        if args.dry_run:
            from densekit.engine.dry_run import rehearse

            print(rehearse(args))
            return
        cfg, _ = read_config(args)
    launch(run, args, cfg.MODEL.DEVICE)


if __name__ == "__main__":
    main()
