# Completion of undial's command line for fish; printed by `undial completion fish`, for
#   undial completion fish | source
# It holds all words itself, so that no program runs when the tab key is pressed.

@LOOKUPS@

function __undial_offer
    set -l typed (commandline -opc)
    set -l current (commandline -ct)
    if test (count $typed) -eq 1
        string split ' ' -- '@COMMANDS@'
        return
    end
    set -l command $typed[2]
    set -l typed_key (string match -r '^([^=]+)=' -- $current)
    if test (count $typed_key) -eq 0
        for word in (__undial_words $command)
            # Sections first, as `train.`, so that the list stays short.
            if string match -qr '\..*=$' -- $word; and not string match -q '*.*' -- $current
                string replace -r '\..*' '.' -- $word
            else
                echo $word
            end
        end | sort -u
        switch $command
            case @PATH_COMMANDS@
                __fish_complete_directories $current ''
        end
        return
    end
    set -l key $typed_key[2]
    set -l offered (__undial_values $key)
    set -l folder
    for i in (seq 3 (count $typed))
        switch $typed[$i]
            case --config-dir -cd
                set folder $typed[(math $i + 1)]
            case '--config-dir=*' '-cd=*'
                set folder (string replace -r '^[^=]*=' '' -- $typed[$i])
        end
    end
    if test -n "$folder"  # the user's configs are options too
        for file in $folder/$key/*.yaml
            set -a offered (string replace -r '.*/(.*)\.yaml$' '$1' -- $file)
        end
    end
    # What stands before it, as in method=undial,npo.
    set -l before (string match -r '^.*[=,]' -- $current)
    if test (count $offered) -gt 0
        for word in $offered
            echo $before$word
        end
    else
        for file in (string replace -r '^[^=]*=' '' -- $current)*
            test -d $file; and set file $file/
            echo $key=$file
        end
    end
end

complete -c undial -f -a '(__undial_offer)'
