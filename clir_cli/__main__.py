from clir_cli.cli import main

main()
