"""What accelerator files are: records of every published one, recognition by header, key repairs.
Pure data, no host.
"""
